"""The parts of the build that cannot be said in pyproject.toml."""

import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildExt(build_ext):
    """Compiles the files of a module at the same time, one on each processor."""

    def build_extension(self, ext: Extension) -> None:
        compile_all = self.compiler.compile

        def compile_each(sources: list[str], *args: object, **options: object) -> list[str]:
            def compile_one(source: str) -> str:
                [made] = compile_all([source], *args, **options)
                return str(made)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                largest_first = sorted(sources, key=os.path.getsize, reverse=True)
                return list(pool.map(compile_one, largest_first))

        self.compiler.compile = compile_each
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_all


options: dict[str, dict[str, str]] = {}
if not sysconfig.get_config_var("Py_GIL_DISABLED"):
    options["bdist_wheel"] = {"py_limited_api": "cp311"}
if os.environ.get("HSTREAMLITE_BUILD"):
    options["build"] = {"build_base": os.environ["HSTREAMLITE_BUILD"]}

setup(
    cffi_modules=["hstreamlite/_native/build.py:ffibuilder"],
    cmdclass={"build_ext": BuildExt},
    options=options,
)
