"""The native kernels, an optional part of the build: without a compiler NumPy does their work."""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = "src/shoal/kernels/"
TRAINERS = "src/shoal/trainers/"
# No fused multiply-add: results have the same bits as the NumPy fallback's.
FLAGS = {
    "unix": ["-std=c11", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
}
FLAGS["mingw32"] = FLAGS["unix"]
FLAGS["msvc"] = ["/std:c11", "/O2", "/fp:precise"]


class BuildExt(build_ext):
    """Knows the flags only once it knows the compiler."""

    def build_extension(self, ext: Extension) -> None:
        """Build with the compiler's own flags."""
        ext.extra_compile_args = [
            *FLAGS.get(self.compiler.compiler_type, []),
            *ext.extra_compile_args,
        ]
        super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        Extension(
            "shoal.kernels._native",
            [FOLDER + "_native.c"],
            depends=[FOLDER + "_typed.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],  # one build for 3.11 and later
            py_limited_api=True,
            optional=True,
        ),
        Extension(
            "shoal.codecs._codecs",
            ["src/shoal/codecs/_codecs.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        ),
        Extension(
            "shoal.trainers._native",
            [TRAINERS + "_native.c"],
            depends=[TRAINERS + name for name in ("_dense.h", "_conv.h", "_stages.h")],
            extra_compile_args=["-ffp-contract=fast"],  # training need not match NumPy's bits
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
