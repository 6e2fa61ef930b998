"""The noise is the generator, the distribution and the key that it says, and the same bits when compiled."""

import math

import pytest
import torch
from scipy import stats

from gensys import native, noise
from gensys.kernels.dispatch import Unavailable, force
from gensys.noise import Noise, Stream, philox, philox_normal, philox_uniform

N = 100_000


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request):
    """The compiled kernels, on each instruction set that this CPU has."""
    try:
        with force("native", isa=request.param):
            yield request.param
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("counter", "seed", "words"),
    [
        ("00000000 00000000 00000000 00000000", 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", 0x299F31D0A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers_of_random123(counter, seed, words):
    c0, c1, c2, c3 = (torch.tensor([int(word, 16)]) for word in counter.split())
    assert [f"{int(word):08x}" for word in philox((c0, c1, c2, c3), seed)] == words.split()


def test_the_unit_interval_is_open_and_symmetric():
    low, high = noise._unit(torch.tensor([0, 2**32 - 1])).double().tolist()
    assert low == 2.0**-24
    assert high == 1 - 2.0**-24


def test_elementary_functions_are_accurate():
    words = torch.cat([torch.arange(0, 2**32, 2**32 // 200_003), torch.tensor([0, 2**31, 2**32 - 1])])
    u = noise._unit(words)
    log = u.double().log()
    assert ((noise._log(u).double() - log).abs() / log.abs()).max() < 1.5e-7
    angle = (((words >> 9) & 0x1FFFFF).double() + 0.5) * 2.0**-21 - 0.5 + (words >> 30)
    cos, sin = noise._cos_sin(words)
    assert (cos.double() - (angle * math.pi / 2).cos()).abs().max() < 1e-7
    assert (sin.double() - (angle * math.pi / 2).sin()).abs().max() < 1e-7


def test_normals_are_standard_normal():
    z = Noise(1, torch.arange(4)).normal((N // 4,), Stream.EPS).double().flatten()
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs(float((z**power).mean()) - moment) < 4 * math.sqrt(variance / N), f"moment {power}"
    assert stats.kstest(z.numpy(), "norm").pvalue > 0.01


def test_uniforms_are_uniform():
    u = Noise(2, torch.arange(4)).uniform((N // 4,), Stream.TIME).double().flatten()
    assert 0 < u.min() < u.max() < 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01


def test_nothing_that_should_be_independent_is_correlated():
    def draw(seed=3, i=0, step=0, stream=Stream.EPS):
        return Noise(seed, torch.tensor([i]), step).normal((N,), stream)[0].double()

    z = draw()
    others = {
        "seed": draw(seed=4),
        "seed, high word": draw(seed=3 + 2**32),
        "id": draw(i=1),
        "id, high word": draw(i=2**32),
        "step": draw(step=1),
        "stream": draw(stream=Stream.TIME),
        "id and stream": draw(i=2**32, stream=Stream.TIME),
        **{f"{lag} elements on": z.roll(lag) for lag in (1, 2, 3, 4)},
    }
    for name, other in others.items():
        assert abs(float((z * other).mean())) < 4 / math.sqrt(N), name
        assert abs(float(((z**2 - 1) * (other**2 - 1)).mean())) < 4 * 2 / math.sqrt(N), name


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_row_does_not_know_its_batch(kind):
    ids = torch.tensor([7, 2**40 + 3, 0, 2**32 + 7, 12])
    full = getattr(Noise(5, ids, step=9), kind)((3, 5), Stream.SOLVER)
    assert full.unique(dim=0).shape[0] == len(ids)
    order = torch.tensor([4, 2, 0, 3, 1])
    assert torch.equal(getattr(Noise(5, ids[order], 9), kind)((3, 5), Stream.SOLVER), full[order])
    alone = getattr(Noise(5, ids[3:4], 9), kind)((3, 5), Stream.SOLVER)
    assert torch.equal(alone, full[3:4])
    every_other = getattr(Noise(5, ids[::2], 9), kind)((3, 5), Stream.SOLVER)
    assert torch.equal(every_other, full[::2])


def test_a_longer_draw_begins_with_the_shorter_one():
    draws = Noise(5, torch.arange(3))
    assert torch.equal(draws.normal((5000,), Stream.EPS)[:, :77], draws.normal((77,), Stream.EPS))


def test_at_changes_the_step_only():
    draws = Noise(5, torch.arange(3))
    assert torch.equal(draws.at(4).normal((8,), Stream.EPS), Noise(5, draws.ids, step=4).normal((8,), Stream.EPS))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3)])
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_shapes(shape, rows):
    draws = Noise(5, torch.arange(rows))
    assert draws.normal(shape, Stream.EPS).shape == (rows, *shape)
    assert draws.uniform(shape, Stream.EPS).shape == (rows, *shape)


def test_the_default_dtype_does_not_matter():
    draws = Noise(5, torch.arange(3))
    before = draws.normal((4,), Stream.EPS), draws.uniform((4,), Stream.EPS)
    torch.set_default_dtype(torch.float64)
    try:
        after = draws.normal((4,), Stream.EPS), draws.uniform((4,), Stream.EPS)
    finally:
        torch.set_default_dtype(torch.float32)
    for x, y in zip(before, after, strict=True):
        assert torch.equal(x, y)
        assert x.dtype == y.dtype == torch.float32


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("seed", [0, 1, -1, 2**31, 2**63, 2**64 - 1])
def test_compiled_is_the_definition_bit_for_bit(seed):
    draws = Noise(seed, torch.tensor([0, 5, 2**32, 2**32 + 5, 2**56 - 1]), step=2**32 - 1)
    for n in (1, 2, 3, 4, 7, 63, 64, 67, 1023, 1024, 1025, 5003):
        arguments = (seed, draws.ids, draws.step, 255, n)
        assert torch.equal(draws.normal((n,), 255), philox_normal(*arguments)), n
        assert torch.equal(draws.uniform((n,), 255), philox_uniform(*arguments)), n


@pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
def test_threads_do_not_matter():
    draws, threads = Noise(8, torch.arange(5)), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = draws.normal((20_011,), Stream.EPS)
        torch.set_num_threads(3)
        assert torch.equal(draws.normal((20_011,), Stream.EPS), one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("ids", "step", "stream", "message"),
    [
        (torch.arange(3, dtype=torch.int32), 0, 0, r"'ids' must be a 1-D int64 tensor, got \(3,\) of torch.int32"),
        (torch.zeros(2, 2, dtype=torch.int64), 0, 0, r"'ids' must be a 1-D int64 tensor, got \(2, 2\)"),
        (torch.tensor([0, -1]), 0, 0, r"'ids' must lie in \[0, 2\^56\), got -1\.\.0"),
        (torch.tensor([2**56, 3]), 0, 0, r"'ids' must lie in \[0, 2\^56\), got 3\.\.72057594037927936"),
        (torch.arange(2), -1, 0, r"'step' must lie in \[0, 2\^32\), got -1"),
        (torch.arange(2), 2**32, 0, r"'step' must lie in"),
        (torch.arange(2), 0, 256, r"'stream' must lie in \[0, 256\), got 256"),
    ],
)
def test_bad_arguments(ids, step, stream, message):
    with pytest.raises(ValueError, match=message):
        Noise(0, ids, step).normal((4,), stream)
    with pytest.raises(ValueError, match=message):
        Noise(0, ids, step).uniform((4,), stream)
    with pytest.raises(ValueError, match=message):
        philox_normal(0, ids, step, stream, 4)
