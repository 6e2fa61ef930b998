"""Compile the kernels ahead of time, for GPUs that need not be here, and read what they cost from the machine code.

`launches` runs the plain functions of this package on tensors without data and catches every kernel that they would
have started, with its arguments; `compiled` compiles one for a target, as Triton would on that GPU; `resources` reads
from the machine code what it needs: registers, what did not fit into them, and how many loads are 128 bits wide.

    python -m gensys.kernels.triton.ahead        the table of `examples()`, in Markdown
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from torch import Tensor, bfloat16, float16, float32
from triton import JITFunction, knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from gensys.kernels.triton import adaln, affine_coupling, combine, philox_normal, vq_nearest
from gensys.noise import Noise

__all__ = ["TARGETS", "Example", "Launch", "Resources", "compiled", "examples", "launches", "resources"]

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),  # A100
    "sm_90": GPUTarget("cuda", 90, 32),  # H100
    "sm_100": GPUTarget("cuda", 100, 32),  # B200
    "gfx942": GPUTarget("hip", "gfx942", 64),  # MI300
}
"""The GPUs that the kernels are compiled for, and how Triton calls them."""

_TYPES = {float32: "*fp32", bfloat16: "*bf16", float16: "*fp16", torch.int64: "*i64"}


class Launch(NamedTuple):
    """A kernel, the value of each of its parameters, and the options for its compiler."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Module and kernel: adaln._forward."""
        return f"{self.kernel.__module__.rpartition('.')[2]}.{self.kernel.__name__}"


class Example(NamedTuple):
    """A call of this package's functions, on tensors without data."""

    name: str
    call: Callable[[], object]
    aligned: bool  # rows start at multiples of 16 bytes, so loads can be 128 bits wide
    targets: tuple[str, ...] = tuple(TARGETS)


@dataclass(frozen=True)
class Resources:
    """What a kernel needs on one target.

    registers: of a thread (AMD: vector registers). spilled: bytes of a thread's stack plus instructions that move
    registers to memory and back (AMD: spilled registers plus bytes of scratch); 0 in a good kernel. shared: bytes of
    a program's shared memory. wide, loads: instructions that load 128 bits from global memory, and all that load.
    """

    registers: int
    spilled: int
    shared: int
    wide: int
    loads: int


def launches(call: Callable[[], object]) -> list[Launch]:
    """The kernels that `call` would start; its tensors should live on the device "meta", as nothing is computed."""
    found = []

    def record(kernel: JITFunction, *arguments: object, grid: object, warmup: bool, **options: object) -> None:
        found.append(Launch(kernel, dict(zip(kernel.arg_names, arguments, strict=True)), options))

    with mock.patch.object(JITFunction, "run", record):
        call()
    return found


def compiled(launch: Launch, target: str) -> CompiledKernel:
    """The kernel for one of `TARGETS`, as Triton would compile it for this launch."""
    gpu = TARGETS[target]
    options = {**launch.options, "num_warps": launch.options["num_warps"] * 32 // gpu.warp_size}
    return triton.compile(_source(launch), target=gpu, options=options)


def resources(kernel: CompiledKernel) -> Resources:
    """What a compiled kernel needs, read from its machine code."""
    return _nvidia(kernel) if "cubin" in kernel.asm else _amd(kernel)


def _source(launch: Launch) -> ASTSource:
    """What Triton's launcher tells the compiler: types, compile-time values, and what is divisible by 16."""
    signature, constants, attributes = {}, {}, {}

    def visit(path: tuple[int, ...], value: Any, fixed: bool) -> Any:
        """The type of an argument; `fixed`: of its value nothing but the type may be known."""
        if isinstance(value, tuple):
            return tuple(visit((*path, i), v, fixed) for i, v in enumerate(value))
        if value is None or (type(value) is int and value == 1 and not fixed):
            constants[path] = value
            return "constexpr"
        if isinstance(value, float):
            return "fp32"
        if isinstance(value, Tensor) or (value % 16 == 0 and not fixed):  # torch aligns what it allocates
            attributes[path] = [["tt.divisibility", 16]]
        return _TYPES[value.dtype] if isinstance(value, Tensor) else "i32"

    for i, param in enumerate(launch.kernel.params):
        value = launch.arguments[param.name]
        if param.is_constexpr:
            signature[param.name], constants[i,] = "constexpr", value
        else:
            kind = visit((i,), value, param.do_not_specialize)
            signature[param.name] = param.annotation_type or kind
    return ASTSource(launch.kernel, signature, constants, attributes)


def _nvidia(kernel: CompiledKernel) -> Resources:
    usage, code = _disassembled(kernel.asm["cubin"])
    registers, stack = (int(n) for n in re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0])
    moves = len(re.findall(r"\b(?:LDL|STL)\b", code))  # LOCAL:0 does not mean that nothing is spilled
    loads = re.findall(r"\b(?:LDG|LDGSTS)\.\S+", code)
    return Resources(registers, stack + moves, kernel.metadata.shared, sum(".128" in x for x in loads), len(loads))


@cache  # most of the time that all this takes is the start of the disassembler
def _disassembled(cubin: bytes) -> tuple[str, str]:
    """What Triton's own copies of NVIDIA's tools say: the resources, and the instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name)
        return usage, _run(knobs.nvidia.nvdisasm.path, "--print-code", "--no-dataflow", file.name)


def _amd(kernel: CompiledKernel) -> Resources:
    code = kernel.asm["amdgcn"]
    counts = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count|private_segment_fixed_size):\s+(\d+)", code))
    registers, spilled, scratch = (
        int(counts[key]) for key in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
    )
    loads = re.findall(r"\b(?:global|buffer)_load_(\w+)", code)
    wide = sum(x.endswith("dwordx4") for x in loads)
    return Resources(registers, spilled + scratch, kernel.metadata.shared, wide, len(loads))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _empty(*shape: int, dtype: torch.dtype = float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _name(function: Callable[..., object], *rest: object) -> str:
    module = function.__module__.rpartition(".")[2]
    name = function.__name__ if function.__name__ == module else f"{module}.{function.__name__}"
    return " ".join([name, *(str(x).removeprefix("torch.") for x in rest)])


def examples() -> Iterator[Example]:
    """Calls that reach every kernel with every dtype, wide and narrow, aligned and ragged."""
    yield from _adaln(1152, float32, bfloat16)
    yield from _adaln(384, float32, float32)[:2]
    yield from _adaln(4096, float32, float32)[-2:]
    yield from _adaln(1151, bfloat16, bfloat16)[-2:]
    yield from _adaln(8192, float16, float16)[-2:]
    yield from _coupling(6144, float32)
    yield from _coupling(32, bfloat16)
    yield from _coupling(33, float32)[:2]
    for width in (8, 64, 250):
        yield _vq(width, float32, "tf32x3", tuple(name for name in TARGETS if name.startswith("sm")))
        yield _vq(width, float32, "ieee", tuple(TARGETS))
    for width in (8, 63, 256):
        yield _vq(width, bfloat16, "ieee", tuple(TARGETS))
    yield _combine(4096, float32, 3, 0.0)
    yield _combine(4096, bfloat16, 3, 0.5)
    yield _combine(4099, float32, 8, 0.5)
    out, noise = _empty(8, 4096), _noise(8)
    yield Example(_name(philox_normal.philox_normal, 4096), lambda: philox_normal.philox_normal(out, noise, 1), False)


def _adaln(width: int, residual: torch.dtype, compute: torch.dtype) -> list[Example]:
    x, h = _empty(8, 250, width, dtype=residual), _empty(8, 250, width, dtype=residual)
    y, out = _empty(8, 250, width, dtype=compute), _empty(8, 250, width, dtype=compute)
    v, stats = _empty(8, width), _empty(8, 250, 2)
    calls: tuple[tuple[Callable[..., object], tuple[object, ...]], ...] = (
        (adaln.modulate, (x, v, v, 1e-6, out)),
        (adaln.modulate_backward, (out, x, v, stats, h)),
        (adaln.gate, (x, y, v, h)),
        (adaln.gate_backward, (h, y, v)),
        (adaln.gate_modulate, (x, y, v, v, v, 1e-6, h, out)),
        (adaln.gate_modulate_backward, (h, out, h, y, v, v, stats)),
    )
    return [
        Example(_name(function, residual, compute, width), partial(function, *arguments), width % 8 == 0)
        for function, arguments in calls
    ]


def _coupling(n: int, dtype: torch.dtype) -> list[Example]:
    x, logdet = _empty(256, n, dtype=dtype), _empty(256)
    return [
        Example(
            _name(function, dtype, n, direction), partial(function, *arguments, direction == "inverse", *out), n != 33
        )
        for direction in ("direct", "inverse")
        for function, arguments, out in (
            (affine_coupling.forward, (x, x, x, 2.0), (x,)),
            (affine_coupling.backward, (x, logdet, x, x, x, 2.0), ()),
        )
    ]


def _vq(width: int, dtype: torch.dtype, precision: vq_nearest.Precision, targets: tuple[str, ...]) -> Example:
    x, codebook, distance = _empty(4001, width, dtype=dtype), _empty(1000, width, dtype=dtype), _empty(4001)
    index = _empty(4001, dtype=torch.int64)
    call = partial(vq_nearest.nearest, x, codebook, index, distance, precision)
    return Example(_name(vq_nearest.nearest, dtype, precision, width), call, width % 8 == 0, targets)


def _combine(n: int, dtype: torch.dtype, terms: int, noise_coef: float) -> Example:
    out = _empty(8, n, dtype=dtype)
    call = partial(combine.combine, out, [out] * terms, [0.5] * terms, noise_coef, _noise(8), 1, (-1.0, 1.0))
    return Example(_name(combine.combine, dtype, n, f"{terms} terms", f"noise {noise_coef}"), call, n % 8 == 0)


def _noise(batch: int) -> Noise:
    return Noise(2**40, _empty(batch, dtype=torch.int64))


def main() -> None:
    """Print a row for each kernel of each example, a column for each target."""
    print("Registers of a thread, bytes of shared memory, 128-bit loads of all loads from global memory.\n")
    print(f"| call | kernel | {' | '.join(TARGETS)} |")
    print("|---|---|" + "---|" * len(TARGETS))
    shown = set()  # the second pass of a sum, for one, is the same in many calls
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict("os.environ", TRITON_CACHE_DIR=folder):
        for example in examples():
            for launch in launches(example.call):
                cells = [
                    _cell(resources(compiled(launch, target))) if target in example.targets else "no such mode"
                    for target in TARGETS
                ]
                if (launch.name, *cells) not in shown:
                    print(f"| {example.name} | {launch.name} | {' | '.join(cells)} |", flush=True)
                shown.add((launch.name, *cells))


def _cell(r: Resources) -> str:
    spills = f", **{r.spilled} spilled**" if r.spilled else ""
    return f"{r.registers}, {r.shared} B, {r.wide}/{r.loads}{spills}"


if __name__ == "__main__":
    main()
