"""Builds `gensys._native`, the compiled kernels, if this machine can; without them gensys runs in pure torch.

It takes `pip install --no-build-isolation -e .`, because the build reads the headers of the installed torch.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from glob import glob
from pathlib import Path
from subprocess import CalledProcessError, SubprocessError, run

from setuptools import Extension, setup
from setuptools.errors import BaseError, CCompilerError

FLAGS = [
    "-O3",
    "-g0",
    "-std=c++20",
    "-ffp-contract=off",  # fused only where it is written so: combine and noise have the same bits anywhere
    "-fno-math-errno",  # lets sqrt be one instruction
    "-fno-trapping-math",  # lets a choice be a blend
    "-fopenmp-simd",  # the `omp simd` hints; threads come from torch
    "-Wno-uninitialized",  # GCC 12 warns of its own AVX-512 intrinsics
    "-Wno-maybe-uninitialized",
    "-fvisibility=hidden",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",  # the stable ABI of torch 2.10 and later
]

NVCC_FLAGS = [
    "-O3",
    "-std=c++17",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-fmad=false",  # as -ffp-contract=off
]
GPUS = ("80", "90", "100")  # compute capability 8.0 (A100), 9.0 (H100), 10.0 (B200); PTX of the last serves later ones


def notice(reason: object, kernels: str = "compiled kernels") -> None:
    """Say that there will be no such kernels (pip shows it with -v; `gensys doctor` tells it again)."""
    print(f"gensys: no {kernels}, pure torch will be used. Reason: {reason}", file=sys.stderr)


def find_nvcc() -> str | None:
    """The CUDA compiler, in CUDA_HOME or on PATH; None if there is none, or if GENSYS_CUDA=0 switches it off."""
    if os.environ.get("GENSYS_CUDA") == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    return (shutil.which("nvcc", path=os.path.join(home, "bin")) if home else None) or shutil.which("nvcc")


def add_cuda(module: Extension, nvcc: str) -> None:
    """Compile csrc/cuda with nvcc into build/cuda, where it is not up to date there, and link it into the module.

    torch's CUDAExtension refuses beside a torch without CUDA, and these files need nothing of torch.
    """
    listed = run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    gpus = [gpu for gpu in GPUS if f"compute_{gpu}" in listed]
    if not gpus:
        raise FileNotFoundError(f"{nvcc} compiles for none of {GPUS}")
    targets = [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in gpus]
    targets.append(f"-gencode=arch=compute_{gpus[-1]},code=compute_{gpus[-1]}")
    # where nvcc itself would look for libraries, as it says; -dryrun runs nothing
    said = run([nvcc, "-dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=True).stderr
    folders = shlex.split(said.partition("LIBRARIES=")[2].partition("\n")[0])
    if not any(Path(folder.removeprefix("-L"), "libcudart_static.a").exists() for folder in folders):
        raise FileNotFoundError(f"no libcudart_static.a in {folders}")
    newest = max(map(os.path.getmtime, [*glob("csrc/cuda/*.cu*"), *glob("csrc/cuda/*.h"), *glob("csrc/*.h"), __file__]))
    Path("build/cuda").mkdir(parents=True, exist_ok=True)
    objects = []
    for source in sorted(glob("csrc/cuda/*.cu")):
        target = Path("build/cuda", Path(source).stem + ".o")
        if not target.exists() or target.stat().st_mtime < newest:
            half = target.with_suffix(".half")  # an interrupted build leaves no object that looks whole
            run([nvcc, *NVCC_FLAGS, *targets, "-c", source, "-o", str(half)], check=True)
            half.replace(target)
        objects.append(str(target))
    module.extra_objects += objects
    # Hidden, or else the launches would go to the CUDA runtime of a torch that brings one, of another version perhaps.
    hide = "-Wl,--exclude-libs,libcudart_static.a"
    module.extra_link_args += [*folders, hide, "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    module.sources.append("csrc/cuda/bind.cpp")
    module.extra_compile_args.append("-DGENSYS_CUDA")


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
            nvcc = find_nvcc()
            try:
                if nvcc:
                    add_cuda(self.extensions[0], nvcc)
            except (OSError, CalledProcessError) as error:
                notice(error, "CUDA kernels")
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
