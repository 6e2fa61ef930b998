"""The Triton kernels, compiled ahead of time for GPUs that are not here: what the machine code says about them."""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from gensys.kernels.triton import adaln
from gensys.kernels.triton.ahead import TARGETS, compiled, examples, launches, resources
from gensys.kernels.triton.launch import interpreted

pytestmark = pytest.mark.skipif(interpreted(adaln._forward), reason="TRITON_INTERPRET is set: there are no kernels")

# Registers of a thread: (NVIDIA, AMD, which has 512). A GPU keeps more threads at hand, the fewer registers they take.
CEILINGS = {
    "adaln._forward": (80, 96),
    "adaln._backward": (128, 128),
    "affine_coupling._forward": (72, 96),
    "affine_coupling._backward": (72, 96),
    "combine._combine": (160, 112),
    "partial_sums._add_parts": (32, 32),
    "philox_normal._philox_normal": (40, 40),
    "vq_nearest._half_squares": (48, 48),
    "vq_nearest._nearest": (255, 320),
}
# Loads narrower than 128 bits where the rows are aligned: statistics of rows, the ids of samples, |e|^2 of codes.
NARROW = {
    "adaln._backward": 4,
    "affine_coupling._backward": 1,
    "combine._combine": 1,
    "vq_nearest._nearest": 80,
}
# These promise bits, so their products are rounded before they are added.
ROUNDED = {"affine_coupling._forward", "combine._combine", "philox_normal._philox_normal"}
SHARED = 99 * 1024  # what every GPU since sm_86 gives to a program
CASES = [(example, target) for example in examples() for target in example.targets]


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.mark.parametrize(("example", "target"), CASES, ids=[f"{e.name}, {target}" for e, target in CASES])
def test_resources(example, target):
    started = launches(example.call)
    assert started
    for launch in started:
        kernel = compiled(launch, target)
        needs = resources(kernel)
        assert needs.spilled == 0
        assert needs.registers <= CEILINGS[launch.name][target.startswith("gfx")]
        assert needs.shared <= SHARED
        if example.aligned:
            assert needs.wide > 0
            assert needs.loads - needs.wide <= NARROW.get(launch.name, 0)
        if launch.name in ROUNDED and "ptx" in kernel.asm:
            assert "fma." not in kernel.asm["ptx"]


def test_every_kernel_and_target_is_compiled():
    assert {launch.name for example, _ in CASES for launch in launches(example.call)} == set(CEILINGS)
    assert {target for _, target in CASES} == set(TARGETS)
