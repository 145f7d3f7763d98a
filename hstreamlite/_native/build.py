"""Build of the native core: cffi in API mode, one abi3 module.

The ``*_api.h`` files are the only declarations: cffi reads them, and the C sources include them
through ``hsl.h``. They hold no preprocessor lines, because cffi's parser takes none.

The environment variable ``HSTREAMLITE_SANITIZE`` (``address,undefined``) names sanitizers to build
with; the module then loads only where their run-time libraries are preloaded. With
``HSTREAMLITE_PORTABLE`` it is built from plain POSIX calls, as for a system that is not Linux; with
``HSTREAMLITE_COVERAGE`` it counts the lines it runs, for gcov.
"""

import os
import sysconfig
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
HEADERS = ["io_api.h", *sorted(p.name for p in HERE.glob("*_api.h") if p.name != "io_api.h")]
SOURCES = sorted(str(p.relative_to(ROOT)) for p in HERE.glob("*.c") if p.name != "_lib.c")

# A free-threaded Python has no stable ABI.
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")
PORTABLE = bool(os.environ.get("HSTREAMLITE_PORTABLE"))
COVERAGE = bool(os.environ.get("HSTREAMLITE_COVERAGE"))
SANITIZE = os.environ.get("HSTREAMLITE_SANITIZE", "")

compile_args = [
    "-O3",
    "-std=c11",
    "-pthread",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
]
link_args = ["-pthread"]
if PORTABLE:
    compile_args += ["-DHSL_PORTABLE", "-Werror=implicit-function-declaration"]
if COVERAGE:
    compile_args += ["--coverage", "-O1", "-fprofile-update=atomic"]
    # A process that ends without its exit handlers has to be able to write its counts itself.
    link_args += ["--coverage", "-Wl,--undefined=__gcov_dump"]
if SANITIZE:
    # Python's own flags hold -fwrapv and -DNDEBUG, which would hide overflows and asserts.
    compile_args += [
        f"-fsanitize={SANITIZE}",
        *(["-fno-sanitize-recover=undefined"] if "undefined" in SANITIZE else []),
        "-fno-omit-frame-pointer",
        "-fno-wrapv",
        "-UNDEBUG",
        "-g",
        "-O1",
    ]
    link_args.append(f"-fsanitize={SANITIZE}")

ffibuilder = FFI()
for header in HEADERS:
    ffibuilder.cdef((HERE / header).read_text(encoding="utf-8"))
ffibuilder.set_source(
    "hstreamlite._native._lib",
    '#include "hsl.h"\n',
    sources=SOURCES,
    include_dirs=[str(HERE.relative_to(ROOT))],
    depends=sorted(str(p.relative_to(ROOT)) for p in HERE.glob("*.h")),
    py_limited_api=ABI3,
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if ABI3 else [],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
)
