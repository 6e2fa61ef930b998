"""The stepper against the table's own meaning: every value kept, every sum written out."""

import random
import threading
import weakref
from functools import partial

import pytest
import torch

from gensys import native, targets
from gensys.guidance import Clip, Rescale, Threshold, correct
from gensys.kernels.combine import MAX_TERMS
from gensys.kernels.dispatch import force
from gensys.noise import Noise, Stream
from gensys.paths import Cosine, Linear
from gensys.solvers import ddim, dpmpp_2m, euler, heun
from gensys.solvers.program import assemble
from gensys.solvers.stepper import execute, run
from gensys.solvers.trace import Call, Symbol, Table, guide, trace
from gensys.times import uniform

needs_native = pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
SOLVERS = {"ddim": ddim, "ddim eta 1": partial(ddim, eta=1.0), "dpmpp_2m": dpmpp_2m, "euler": euler, "heun": heun}
CLIP, RESCALE = Clip(-0.4, 0.7), Rescale(0.7)


@pytest.fixture(params=["reference", pytest.param("native", marks=needs_native)])
def driver(request):
    """Both ways to do the sums of a stage."""
    with force(request.param):
        yield request.param


def network(x, t, guided):
    """Some function that treats both halves of a guided call differently."""
    out = torch.tanh(x) * (1 + t) + 0.1 * torch.sin(3 * x)
    if guided:
        out[len(x) // 2 :] *= -0.3
    return out


def by_hand(table, net, x, noise):
    """The table, read literally: no value is ever overwritten."""
    known = {Symbol("X"): x}

    def value(terms):
        products = [known[s] * c for s, c in terms.items() if s.kind != "Z"]
        for s, c in terms.items():
            if s.kind == "Z":
                products.append(noise.at(s.number).normal(tuple(x.shape[1:]), Stream.SOLVER).to(x.dtype) * c)
        total = products[0] if products else torch.zeros_like(x)
        for product in products[1:]:
            total = total + product
        return total

    for k, call in enumerate(table.calls):
        state = known[Symbol("I", k)] = value(call.input)
        answers = net(torch.cat([state, state]) if call.guided else state, call.t, call.guided)
        known[Symbol("F", k)] = answers[: len(x)]
        if call.guided:
            known[Symbol("R", k)] = answers[len(x) :]
        if call.estimate is not None:
            conditional = None if call.conditional is None else value(call.conditional)
            known[Symbol("C", k)] = correct(call.nodes, value(call.estimate), conditional)
    return value(table.output)


def any_table(seed):
    """A table that no solver would make: any symbols in any sum, some sums long, some empty, some draws twice."""
    rng = random.Random(seed)
    some = rng.choice([False, True])
    known, calls = [Symbol("X")], []

    def terms():
        tensors = rng.sample(known, rng.randint(0, min(len(known), rng.choice([2, 4, 2 * MAX_TERMS + 1]))))
        draws = [Symbol("Z", rng.randint(0, 99)) for _ in range(rng.choice([0, 0, 1, 3]))]
        return {s: rng.choice([1.0, rng.uniform(-0.6, 0.6)]) for s in rng.sample(tensors + draws, len(tensors + draws))}

    for k in range(rng.randint(1, 12)):
        read = rng.choice([terms(), {Symbol("X"): 1.0}])
        guided = rng.random() < 0.4
        known += [Symbol("I", k), Symbol("F", k)] + [Symbol("R", k)] * guided
        estimate = terms() if some and rng.random() < 0.6 else None
        nodes = () if estimate is None else rng.choice([(), (CLIP,), (CLIP,), (Threshold(60.0),), (RESCALE, CLIP)])
        calls.append(Call(read, rng.random(), guided, estimate, nodes, terms() if RESCALE in nodes else None))
        known += [Symbol("C", k)] * (estimate is not None)
    return Table(tuple(calls), terms())


@pytest.mark.parametrize(("shape", "count"), [((3, 5), 40), ((2, 2100), 6)], ids=["small", "several blocks"])
def test_any_table_is_executed_to_the_letter(driver, shape, count):
    noise = Noise(5, torch.arange(shape[0]) + 7)
    x = noise.normal(shape[1:], Stream.INITIAL)
    for seed in range(count):
        table = any_table(seed)
        before = x.clone()
        got = execute(table, network, x, noise)
        assert torch.equal(x, before), "the initial state is the caller's"
        assert torch.equal(got, by_hand(table, network, x, noise)), f"seed {seed}\n{table}"


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("nodes", [(), (CLIP,), (RESCALE,), (Threshold(90.0),), (RESCALE, Threshold(90.0))])
def test_the_drivers_return_the_same_bits(driver, name, scale, nodes):
    noise = Noise(1, torch.arange(3))
    x = noise.normal((7,), Stream.INITIAL)
    table = guide(trace(SOLVERS[name], Cosine(), targets.v, uniform(6), nodes), lambda t: scale if t > 0.3 else 1.0)
    assert torch.equal(execute(table, network, x, noise), by_hand(table, network, x, noise))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_take_the_same_program(dtype):
    noise = Noise(1, torch.arange(3))
    x = noise.normal((40,), Stream.INITIAL).to(dtype)
    table = trace(dpmpp_2m, Cosine(), targets.v, uniform(5), [Clip(-1, 1)])
    got = execute(table, network, x, noise)
    exact = execute(table, network, x.double(), noise)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 0)


def kinds(solver, scale=1.0, *nodes, n=8):
    table = guide(trace(solver, Cosine(), targets.v, uniform(n), nodes), lambda t: scale)
    return sorted(assemble(table).slots)


def test_a_solver_gets_by_with_few_buffers():
    assert kinds(ddim) == kinds(euler) == ["output", "rows", "x"]  # x_s is written over x_t
    assert kinds(ddim, 1.0, CLIP) == ["output", "rows", "scratch", "x"]
    assert kinds(ddim, scale=2.0) == ["output", "rows", "twice", "x"]  # "rows" for x_0, which the caller keeps
    assert kinds(ddim, 1.0, RESCALE) == ["output", "rows", "scratch", "x"]  # nothing to rescale
    assert kinds(ddim, 2.0, RESCALE) == ["output", "rows", "rows", "twice", "x"]
    assert kinds(ddim, 1.0, Threshold(99.0)) == ["output", "rows", "rows", "x"]
    assert kinds(heun) == ["output", "output", "rows", "rows", "x"]
    assert kinds(dpmpp_2m) == ["output", "output", "rows", "rows", "x"]
    assert kinds(dpmpp_2m, 1.0, CLIP) == ["output", "rows", "rows", "rows", "scratch", "x"]


def test_outputs_are_let_go_as_soon_as_nothing_reads_them(driver):
    outputs, alive = [], []

    def watched(x, t, guided):
        alive.append([k for k, output in enumerate(outputs) if output() is not None])
        out = network(x, t, guided)
        outputs.append(weakref.ref(out))
        return out

    # DPM-Solver++ reads the output before the last one, except after a start at alpha = 0 and in the step to sigma = 0.
    for solver, needed in ((ddim, [[]] * 5), (dpmpp_2m, [[], [], [1], [2], []])):
        outputs.clear()
        alive.clear()
        table = trace(solver, Linear(), targets.velocity, uniform(5))
        execute(table, watched, torch.randn(4, 3), Noise(0, torch.arange(4)))
        assert alive == needed


@needs_native
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_longer_run_allocates_no_more(name, scale, allocations):
    noise = Noise(1, torch.arange(3))
    x = torch.randn(3, 50)

    def count(n):
        answers = [torch.randn(6 if scale != 1 else 3, 50) for _ in range(2 * n)]
        program = assemble(guide(trace(SOLVERS[name], Cosine(), targets.v, uniform(n)), lambda t: scale))
        with allocations(x.numel()) as seen:
            run(program, lambda x, t, guided: answers.pop(), x, noise)
        return seen.count

    assert count(24) == count(6) <= 3


@needs_native
def test_threads_and_batches_do_not_matter():
    table = guide(trace(partial(ddim, eta=0.7), Cosine(), targets.v, uniform(4), (Clip(-1.0, 1.0),)), lambda t: 2.0)
    noise = Noise(2, torch.arange(40))
    x = noise.normal((3, 701), Stream.INITIAL)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(execute(table, network, x, noise))
    finally:
        torch.set_num_threads(threads)
    rows = [execute(table, network, x[k : k + 8], Noise(2, noise.ids[k : k + 8])) for k in range(0, 40, 8)]
    assert all(torch.equal(other, results[0]) for other in [*results[1:], torch.cat(rows)])


def test_an_empty_batch(driver):
    table = trace(dpmpp_2m, Cosine(), targets.v, uniform(3), [Clip(-1.0, 1.0)])
    got = execute(table, network, torch.empty(0, 4), Noise(0, torch.arange(0)))
    assert got.shape == (0, 4)


def test_outputs_may_have_any_strides(driver):
    noise, x = Noise(0, torch.arange(4)), torch.randn(4, 6, 5)
    table = trace(heun, Cosine(), targets.v, uniform(3))
    got = execute(table, lambda *a: network(*a).transpose(1, 2).contiguous().transpose(1, 2), x, noise)
    assert torch.equal(got, execute(table, network, x, noise))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, t, g: x, "'network': .*shares memory"),
        (lambda x, t, g: x.view(-1).view(4, 3), "shares memory .*return a new tensor"),
        (lambda x, t, g: network(x, t, g)[:2], r"'network' must return .*like its input, \(4, 3\) .*got \(2, 3\)"),
        (lambda x, t, g: network(x, t, g).double(), r"like its input, .*float32.*got .*float64"),
        (lambda x, t, g: network(x, t, g).to("meta"), "on cpu, got .*on meta at t = 1"),
        (lambda x, t, g: network(x, t, g).requires_grad_(), "must not require a gradient.*torch.no_grad"),
    ],
)
def test_what_a_network_may_not_return(driver, answer, message):
    table = trace(ddim, Cosine(), targets.v, uniform(3))
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=message.removeprefix("'network': .*")):
        execute(table, answer, x, Noise(0, torch.arange(4)))


def test_an_output_that_is_still_needed_may_not_be_overwritten(driver):
    out = torch.empty(4, 3)
    table = trace(dpmpp_2m, Cosine(), targets.v, uniform(4))  # the third step reads two outputs
    with pytest.raises(ValueError, match=r"still needs .*return a new tensor"):
        execute(table, lambda x, t, g: torch.tanh(x, out=out), torch.randn(4, 3), Noise(0, torch.arange(4)))


def test_bad_arguments():
    table, ids = trace(ddim, Cosine(), targets.v, uniform(3)), torch.arange(4)
    with pytest.raises(ValueError, match=r"'x' must be contiguous, got strides \(1, 4\)"):
        execute(table, network, torch.randn(3, 4).T, Noise(0, ids))
    for wrong in (ids[:3], ids.to("meta"), ids.view(2, 2)):
        with pytest.raises(ValueError, match=r"'noise' must have an id for each row of 'x', \(4, 3\) on cpu, got"):
            execute(table, network, torch.randn(4, 3), Noise(0, wrong))
    with pytest.raises(ValueError, match="'network' and 'x' must not require a gradient"):
        execute(table, network, torch.randn(4, 3, requires_grad=True), Noise(0, ids))


def native_stepper(passes, ids=None):
    ids = torch.arange(2) if ids is None else ids
    stepper = native.extension.Stepper([(None, passes, 1, ())], [False] * 3, 6, ids, 0, 1)
    stepper.hold(0, torch.zeros(2, 3))
    stepper.hold(1, torch.zeros(2, 3))
    return stepper


@needs_native
def test_a_direct_call_cannot_leave_its_memory():
    good = (2, [0], [1.0], 0.0, 0, None, False)
    stepper = native_stepper([good])
    stepper.advance(None)
    with pytest.raises(RuntimeError, match="has done all of its stages"):
        stepper.advance(None)
    for bad, message in (
        ((3, [0], [1.0], 0.0, 0, None, False), "register 3 holds nothing"),
        ((2, [1], [1.0], 0.0, 0, None, False), "register 1 holds nothing"),
        ((2, [4], [1.0], 0.0, 0, None, False), "register 4 holds nothing"),
        ((2, [0], [1.0], 0.0, 0, None, True), "register 3 holds nothing"),
        ((2, [6], [1.0], 0.0, 0, None, False), "there is no slot 3"),
        ((-2, [0], [1.0], 0.0, 0, None, False), "there is no register -2"),
        ((2, [-1], [1.0], 0.0, 0, None, False), "there is no register -1"),
    ):
        with pytest.raises(ValueError, match=message):
            native_stepper([bad]).advance(None)
    with pytest.raises(ValueError, match="at most 8 terms, and as many coefficients"):
        native_stepper([(2, [0] * 9, [1.0] * 9, 0.0, 0, None, False)])
    with pytest.raises(ValueError, match="at most 8 terms, and as many coefficients"):
        native_stepper([(2, [0, 0], [1.0], 0.0, 0, None, False)])
    with pytest.raises(ValueError, match="must be a multiple of the number of ids"):
        native_stepper([good], ids=torch.arange(4))
    for wrong in (torch.arange(2).int(), torch.arange(4)[::2], [0, 1]):
        with pytest.raises(ValueError, match="must be contiguous, on the CPU and of its dtype"):
            native_stepper([good], ids=wrong)
    stepper = native_stepper([good])
    for wrong in (torch.zeros(6).double(), torch.zeros(3, 2).T, torch.zeros(6, device="meta"), None, "x", 3):
        with pytest.raises(ValueError, match="must be contiguous, on the CPU and of its dtype"):
            stepper.hold(2, wrong)
    with pytest.raises(ValueError, match="must be contiguous, on the CPU and of its dtype"):
        stepper.hold(2, torch._neg_view(torch.zeros(6)))
    with pytest.raises(ValueError, match="a slot takes 6 elements or twice as many, got 5"):
        stepper.hold(2, torch.zeros(5))
    with pytest.raises(ValueError, match="there is no slot 3"):
        stepper.hold(3, torch.zeros(6))
    with pytest.raises(ValueError, match="there is no slot 9"):
        native.extension.Stepper([(9, [], 0, [])], [False], 6, torch.arange(2), 0, 1)


@needs_native
def test_the_stepper_keeps_what_it_reads_alive():
    x, out = torch.full((2, 3), 2.0), torch.zeros(2, 3)
    alive = weakref.ref(x)
    stepper = native.extension.Stepper(
        [(None, [(2, [0], [3.0], 0.0, 0, None, False)], 1, [])], [False] * 2, 6, torch.arange(2), 0, 1
    )
    stepper.hold(0, x)
    stepper.hold(1, out)
    del x
    assert alive() is not None
    stepper.advance(None)
    assert torch.equal(out, torch.full((2, 3), 6.0))
    del stepper
    assert alive() is None


@needs_native
def test_two_threads_cannot_share_a_stepper():
    """One of them works on memory that the other one could take away."""
    x, out = torch.zeros(64, 50_000), torch.zeros(64, 50_000)
    passes = [(2, [0], [1.0], 1.0, step, None, False) for step in range(4)]
    stepper = native.extension.Stepper([(None, passes, 1, [])], [False] * 2, x.numel(), torch.arange(64), 0, 1)
    stepper.hold(0, x)
    stepper.hold(1, out)
    worker = threading.Thread(target=stepper.advance, args=(None,))
    worker.start()
    refusals = set()
    while worker.is_alive():
        try:
            stepper.hold(0, x)
        except RuntimeError as error:
            refusals.add(str(error))
    worker.join()
    assert refusals == {"this stepper is in use by another thread"}
    stepper.hold(0, x)
