"""Build of the native core: cffi in API mode, one abi3 module.

The ``*_api.h`` files are the only declarations: cffi reads them, and the C sources include them
through ``hsl.h``. They hold no preprocessor lines, because cffi's parser takes none.
"""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
HEADERS = ["io_api.h", *sorted(p.name for p in HERE.glob("*_api.h") if p.name != "io_api.h")]
SOURCES = sorted(str(p.relative_to(ROOT)) for p in HERE.glob("*.c") if p.name != "_lib.c")

ffibuilder = FFI()
for header in HEADERS:
    ffibuilder.cdef((HERE / header).read_text())
ffibuilder.set_source(
    "hstreamlite._native._lib",
    '#include "hsl.h"\n',
    sources=SOURCES,
    include_dirs=[str(HERE.relative_to(ROOT))],
    depends=sorted(str(p.relative_to(ROOT)) for p in HERE.glob("*.h")),
    py_limited_api=True,
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    extra_compile_args=[
        "-O3",
        "-std=c11",
        "-pthread",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
    ],
    extra_link_args=["-pthread"],
)
