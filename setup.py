"""Builds `gensys._native`, the compiled kernels, if this machine can; without them gensys runs in pure torch.

It takes `pip install --no-build-isolation -e .`, because the build reads the headers of the installed torch.
"""

from __future__ import annotations

import sys
from glob import glob
from subprocess import SubprocessError

from setuptools import Extension, setup
from setuptools.errors import BaseError, CCompilerError

FLAGS = [
    "-O3",
    "-g0",
    "-std=c++20",
    "-ffp-contract=off",  # no fused multiply-add: all instruction sets and plain torch return the same bits
    "-fno-math-errno",  # lets sqrt be one instruction
    "-fno-trapping-math",  # lets a choice be a blend
    "-fopenmp-simd",  # the `omp simd` hints; threads come from torch
    "-Wno-maybe-uninitialized",  # GCC 12 warns of its own AVX-512 intrinsics
    "-fvisibility=hidden",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",  # the stable ABI of torch 2.10 and later
]


def notice(reason: object) -> None:
    """Say that there will be no compiled kernels (pip shows it with -v; `gensys doctor` tells it again)."""
    print(f"gensys: no compiled kernels, pure torch will be used. Reason: {reason}", file=sys.stderr)


def extension() -> tuple[list[Extension], dict[str, type]]:
    """The extension and the command that builds it; both empty where torch or pybind11 is missing."""
    try:
        import pybind11
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        notice(f"{error} (install with --no-build-isolation)")
        return [], {}

    class OptionalBuild(BuildExtension):
        """A build that fails is reported and survived."""

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            # torch's question for the compiler's version; its wrapper of ninja; setuptools without ninja
            except (OSError, SubprocessError, RuntimeError, BaseError, CCompilerError) as error:
                notice(error)
                self.extensions = []

    module = CppExtension(
        "gensys._native",
        ["csrc/bind.cpp", "csrc/kernels.cpp", *sorted(glob("csrc/cpu/*.cpp")), *sorted(glob("csrc/ops/*.cpp"))],
        include_dirs=[pybind11.get_include()],
        depends=sorted(glob("csrc/**/*.h", recursive=True)),
        extra_compile_args=FLAGS,
    )
    return [module], {"build_ext": OptionalBuild}


modules, commands = extension()
setup(ext_modules=modules, cmdclass=commands)
