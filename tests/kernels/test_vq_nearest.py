"""vq_nearest: the nearest code, ties to the lowest index, on every instruction set, with no matrix of distances."""

import os
import subprocess
import sys

import pytest
import torch

from gensys import native
from gensys.kernels.dispatch import force
from gensys.kernels.vq_nearest import examples, reference, vq_nearest

needs_native = pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
INF, NAN = float("inf"), float("nan")


@pytest.fixture(params=["reference", "native"])
def implementation(request):
    if request.param == "native" and native.extension is None:
        pytest.skip(f"no compiled kernels: {native.why_missing}")
    with force(request.param):
        yield request.param


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(*shape, seed=0):
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()


def squared_distances(x, codebook):
    """All of them, (N, K), as the definition has them: in float64, from the differences."""
    return (x.double()[:, None] - codebook.double()).square().sum(2)


@pytest.mark.usefixtures("isa")
def test_values_and_gradients_are_those_of_the_definition(assert_agrees):
    for example in examples():
        assert_agrees(vq_nearest, reference, example)
        all_distances = squared_distances(example["x"], example["codebook"])
        index, distance = vq_nearest(example["x"], example["codebook"], distances=True)
        assert torch.equal(index, all_distances.argmin(1))
        torch.testing.assert_close(distance.double(), all_distances.min(1).values, rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_reference_is_the_definition(dtype):
    x, codebook = normal(70, 6).to(dtype), normal(40, 6, seed=1).to(dtype)
    all_distances = squared_distances(x, codebook)
    index, distance = reference(x, codebook, distances=True)
    assert torch.equal(index, all_distances.argmin(1))
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(distance.double(), all_distances.min(1).values, rtol=1e-6, atol=0)
    if dtype == torch.float64:
        assert torch.equal(vq_nearest(x, codebook), index)  # there is no kernel: the choice falls on the reference


def test_the_reference_in_pieces_is_the_reference(monkeypatch):
    x, codebook = normal(100, 6), normal(40, 6, seed=1)
    whole = reference(x, codebook)
    for entries in (1, 40, 700):  # one row, one row, seventeen rows at a time
        monkeypatch.setattr("gensys.kernels.vq_nearest._ENTRIES", entries)
        assert torch.equal(reference(x, codebook), whole)


@needs_native
@pytest.mark.parametrize(("n", "k", "d"), [(16384, 1024, 8), (4096, 8192, 8), (16384, 1024, 64), (8192, 1024, 256)])
def test_no_mismatch_with_float64_on_random_data(n, k, d):
    x, codebook = normal(n, d), normal(k, d, seed=1)
    assert torch.equal(vq_nearest(x, codebook), reference(x.double(), codebook.double()))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("d", [1, 8, 37, 300])
def test_near_ties_are_lost_within_the_bound_only(d):
    """Codes that differ in their last bits, far from x: float32 cannot tell them apart, the promise is the bound."""
    x, center = normal(50, d), 3 * normal(1, d, seed=1)
    codebook = center * (1 + 1e-7 * normal(90, d, seed=2))
    all_distances = squared_distances(x, codebook)
    taken = all_distances.gather(1, vq_nearest(x, codebook)[:, None])[:, 0]
    norm, longest = x.double().norm(dim=1), codebook.double().norm(dim=1).max()
    bound = 4 * (d + 2) * 2.0**-24 * (norm * longest + longest**2)
    assert torch.all(taken - all_distances.min(1).values <= bound)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("k", [2, 3, 4, 7, 50])
def test_of_equal_codes_the_first_is_taken(k):
    different = normal(k, 19, seed=1)
    order = torch.randint(k, (5 * k + 3,), generator=torch.Generator().manual_seed(2))
    codebook = different[order]
    first = torch.stack([(order == j).nonzero()[0, 0] if (order == j).any() else torch.tensor(-1) for j in range(k)])
    x = normal(60, 19)
    there = order.unique()
    expected = first[there[squared_distances(x, different[there]).argmin(1)]]
    assert torch.equal(vq_nearest(x, codebook), expected)


@pytest.mark.parametrize(("k", "d"), [(5, 1), (64, 2), (203, 3), (1000, 9)])
def test_exact_ties_go_to_the_lowest_index_in_the_reference(k, d):
    x, codebook = integers(150, d), integers(k, d, seed=1)
    assert torch.equal(reference(x, codebook), squared_distances(x, codebook).argmin(1))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("k", "d"), [(5, 1), (64, 2), (203, 3), (1000, 9)])
def test_exact_ties_go_to_the_lowest_index(k, d):
    x, codebook = integers(150, d), integers(k, d, seed=1)
    all_distances = squared_distances(x, codebook)
    smallest = all_distances.min(1, keepdim=True).values
    assert (all_distances == smallest).sum(1).double().mean() > 1.2  # there are many ties indeed
    index, distance = vq_nearest(x, codebook, distances=True)
    assert torch.equal(index, all_distances.argmin(1))
    assert torch.equal(distance.double(), smallest[:, 0])


@pytest.mark.usefixtures("isa")
def test_a_row_does_not_depend_on_the_other_rows_nor_on_the_order_of_the_codes():
    x, codebook = normal(101, 21), normal(67, 21, seed=1)
    index, distance = vq_nearest(x, codebook, distances=True)
    for n in (1, 2, 15, 17, 48, 100):
        some, its_distance = vq_nearest(x[-n:], codebook, distances=True)
        assert torch.equal(some, index[-n:])
        assert torch.equal(its_distance, distance[-n:])
    order = torch.randperm(67, generator=torch.Generator().manual_seed(2))
    shuffled, its_distance = vq_nearest(x, codebook[order], distances=True)
    assert torch.equal(order[shuffled], index)
    assert torch.equal(its_distance, distance)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("exponent", [60, -55])  # numbers of 1e18 and of 1e-17
def test_a_power_of_two_scales_the_distances_exactly(exponent):
    x, codebook = normal(60, 21), normal(50, 21, seed=1)
    index, distance = vq_nearest(x, codebook, distances=True)
    scaled, its_distance = vq_nearest(x * 2.0**exponent, codebook * 2.0**exponent, distances=True)
    assert torch.equal(scaled, index)
    assert torch.equal(its_distance, distance * 2.0 ** (2 * exponent))


@pytest.mark.usefixtures("isa")
def test_a_small_distance_is_as_exact_as_a_large_one():
    codebook = 100 * normal(30, 24)
    x = codebook + 1e-4 * normal(30, 24, seed=1)
    index, distance = vq_nearest(x, codebook, distances=True)
    assert torch.equal(index, torch.arange(30))
    torch.testing.assert_close(distance.double(), (x.double() - codebook.double()).square().sum(1), rtol=2e-6, atol=0)


def check_what_is_not_finite():
    """NaN stays in its row or its code; an index is always in range."""
    x, codebook = normal(60, 10), normal(30, 10, seed=1)
    index = vq_nearest(x, codebook)
    broken = x.clone()
    broken[7], broken[20, 3] = NAN, NAN
    found, distance = vq_nearest(broken, codebook, distances=True)
    kept = torch.ones(60, dtype=torch.bool)
    kept[[7, 20]] = False
    assert found[[7, 20]].tolist() == [0, 0]
    assert distance.isnan().tolist() == (~kept).tolist()
    assert torch.equal(found[kept], index[kept])
    for value in (NAN, INF, -INF):  # in the first code, in the last, between
        worse = codebook.clone()
        worse[[0, 11, 29], [0, 4, 9]] = value
        left = torch.tensor([k for k in range(30) if k not in (0, 11, 29)])
        assert torch.equal(vq_nearest(x, worse), left[squared_distances(x, codebook[left]).argmin(1)])
        assert torch.equal(vq_nearest(x, torch.full_like(codebook, value)), torch.zeros(60, dtype=torch.int64))
    infinite = x.clone()
    infinite[3, 2] = INF  # the score of a code with a positive number there is infinity: the first of those
    expected = index.clone()
    expected[3] = (codebook[:, 2] > 0).nonzero()[0, 0]
    assert torch.equal(vq_nearest(infinite, codebook), expected)
    for k in (1, 2, 30):
        found = vq_nearest(1e30 * x, 1e30 * codebook[:k])
        assert 0 <= found.min() <= found.max() < k


@pytest.mark.usefixtures("isa")
def test_what_is_not_finite():
    check_what_is_not_finite()


def test_what_is_not_finite_in_the_reference():
    with force("reference"):
        check_what_is_not_finite()


@needs_native
def test_threads_do_not_matter():
    x, codebook, threads = normal(5003, 40), normal(777, 40, seed=1), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(vq_nearest(x, codebook, distances=True))
    finally:
        torch.set_num_threads(threads)
    for index, distance in results[1:]:
        assert torch.equal(index, results[0][0])
        assert torch.equal(distance, results[0][1])


def test_memory_is_flat():
    """8,000 rows x 8,000 codes: their matrix would be 256 MB."""
    code = """
import torch
from gensys.engine.memory import peak_bytes
from gensys.kernels.vq_nearest import reference, vq_nearest
def peak(n):
    for op in (vq_nearest, reference):
        op(torch.ones(n, 2), torch.ones(n, 2), distances=True)
    return peak_bytes()
small = peak(2048)
print((peak(8_000) - small) >> 20)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 60  # MB


def test_an_index_has_no_derivative_and_a_distance_has(implementation):
    x, codebook = normal(9, 4).requires_grad_(), normal(5, 4, seed=1).requires_grad_()
    assert not vq_nearest(x, codebook).requires_grad
    index, distance = vq_nearest(x, codebook, distances=True)
    assert not index.requires_grad
    distance.sum().backward()
    pull = 2 * (x - codebook[index]).detach()
    torch.testing.assert_close(x.grad, pull)
    torch.testing.assert_close(codebook.grad, torch.zeros(5, 4).index_add(0, index, -pull))
    with torch.no_grad():
        assert not vq_nearest(x, codebook, distances=True)[1].requires_grad


def test_autocast_rounds_nothing(implementation):
    x, codebook = normal(200, 16), normal(100, 16, seed=1)
    expected = vq_nearest(x, codebook, distances=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = vq_nearest(x, codebook, distances=True)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_triton_when_it_is_forced():
    pytest.importorskip("triton", reason="triton is not installed")
    code = """
import torch
from gensys.kernels.vq_nearest import reference, vq_nearest
x, codebook = torch.randn(20, 10).T, torch.randn(20, 30).T.requires_grad_()
index, distance = vq_nearest(x, codebook, distances=True)
expected = reference(x, codebook, distances=True)
assert torch.equal(index, expected[0]) and torch.equal(vq_nearest(x, codebook), index)
torch.testing.assert_close(distance, expected[1])
with torch.no_grad():
    torch.testing.assert_close(vq_nearest(x, codebook, distances=True)[1], expected[1])
print(distance.requires_grad)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "GENSYS_KERNELS": "triton"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout == "True\n", run.stderr


@pytest.mark.parametrize("distances", [False, True])
@pytest.mark.parametrize("differentiable", [False, True])
def test_it_compiles_without_a_break(implementation, distances, differentiable):
    def f(x, codebook):
        return vq_nearest(x * 2, codebook, distances=distances)

    torch.compiler.reset()  # a graph keeps the implementation that it was traced with
    x, codebook = normal(50, 7).requires_grad_(differentiable), normal(20, 7, seed=1)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, codebook), f(x, codebook), rtol=0, atol=0)


def bad(message, **changes):
    arguments = {"x": torch.zeros(3, 4), "codebook": torch.zeros(5, 4)}
    return pytest.param({**arguments, **changes}, message, id=message[:50])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        bad(r"'x' must be \(N, D\), floating point, got \(2, 3, 4\).*channels last", x=torch.zeros(2, 3, 4)),
        bad("'x' must be .*floating point, got .*torch.int64", x=torch.zeros(3, 4, dtype=torch.int64)),
        bad(r"'codebook' must be \(K, D\) with at least one code .*got \(0, 4\)", codebook=torch.zeros(0, 4)),
        bad(r"'codebook' must be \(K, D\) with .*got \(4,\)", codebook=torch.zeros(4)),
        bad("at least one code and one dimension", x=torch.zeros(3, 0), codebook=torch.zeros(5, 0)),
        bad(r"'codebook' must have the 4 columns of 'x', got \(5, 3\)", codebook=torch.zeros(5, 3)),
        bad("'codebook' must be torch.float32 on cpu .*got .*float64", codebook=torch.zeros(5, 4).double()),
        bad("'codebook' must be torch.float32 on cpu .*got .*on meta", codebook=torch.zeros(5, 4, device="meta")),
    ],
)
def test_bad_arguments(implementation, arguments, message):
    with pytest.raises(ValueError, match=message):
        vq_nearest(**arguments)


@needs_native
def test_the_operator_is_a_proper_torch_operator():
    for distance in (None, torch.empty(5)):
        arguments = (normal(5, 3), normal(4, 3), torch.empty(5, dtype=torch.int64), distance)
        torch.library.opcheck(torch.ops.gensys.vq_nearest.default, arguments)


@needs_native
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(3, 4).double()}, "'x' must be a contiguous CPU tensor of float32"),
        ({"x": torch.zeros(4, 3).T}, "'x' must be a contiguous"),
        ({"codebook": torch.zeros(5, 4).bfloat16()}, "'codebook' must be a contiguous CPU tensor of float32"),
        ({"codebook": torch.zeros(5, 3)}, r"'x' and 'codebook' must be \(N, D\) and \(K, D\)"),
        ({"codebook": torch.zeros(0, 4)}, r"'codebook' must have 1 to 2\^31 - 1 codes, got 0"),
        ({"index": torch.zeros(2, dtype=torch.int64)}, "'index' must have one element for each of the 3 rows"),
        ({"index": torch.zeros(3)}, "'index' must be a contiguous CPU tensor of int64"),
        ({"distance": torch.zeros(4)}, "'distance' must have one element for each of the 3 rows"),
    ],
)
def test_a_direct_call_cannot_leave_its_memory(changes, message):
    arguments = {"x": torch.zeros(3, 4), "codebook": torch.zeros(5, 4), "index": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.gensys.vq_nearest(**{**arguments, "distance": None, **changes})
