"""Memory that ops write into: overlaps are refused, and autograd is told."""

import pytest
import torch

from gensys import native
from gensys.kernels.adaln import adaln_gate, adaln_gate_modulate, adaln_modulate
from gensys.kernels.affine_coupling import affine_coupling
from gensys.kernels.combine import combine
from gensys.kernels.out import overlaps_in_part, shares_memory, written
from gensys.kernels.philox_normal import philox_normal
from gensys.noise import Noise, Stream

needs_native = pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")


def test_what_shares_memory():
    whole = torch.zeros(6, 8)
    left, right = whole.chunk(2, dim=1)
    assert shares_memory(whole, whole[3:])
    assert not shares_memory(whole[:3], whole[3:])
    assert not shares_memory(whole, torch.zeros(6, 8))
    assert not shares_memory(whole[:0], whole)
    assert not overlaps_in_part(whole, whole)
    assert not overlaps_in_part(left, right)  # their ranges do, their numbers do not
    assert not overlaps_in_part(right, left)
    assert not overlaps_in_part(left[1:], right[:-1])
    assert overlaps_in_part(left, whole)
    assert overlaps_in_part(left, whole[:, 2:6])
    assert overlaps_in_part(whole[:, 2:6], right)
    assert overlaps_in_part(whole[:5], whole[1:])


CALLS = {
    "adaln_modulate": lambda x: adaln_modulate(x, torch.zeros(3, 8), torch.zeros(3, 8), out=x),
    "adaln_gate": lambda x: adaln_gate(x, torch.zeros(3, 4, 8), torch.zeros(3, 8), out=x),
    "adaln_gate_modulate": lambda x: adaln_gate_modulate(
        x, torch.zeros(3, 4, 8), *torch.zeros(3, 3, 8).unbind(), out=(x, torch.empty(3, 4, 8))
    ),
    "affine_coupling": lambda x: affine_coupling(x, torch.zeros(3, 4, 8), torch.zeros(3, 4, 8), out=x),
    "combine": lambda x: combine(x, [x], [2.0]),
    "philox_normal": lambda x: philox_normal(x, Noise(0, torch.arange(3)), Stream.EPS),
    "written": written,
}


@needs_native
@pytest.mark.parametrize("name", CALLS)
def test_a_tensor_that_a_gradient_needs_is_not_overwritten_without_a_word(name):
    x, w = torch.randn(3, 4, 8), torch.ones(3, 4, 8, requires_grad=True)
    y = (x * w).sum()
    with torch.no_grad():
        CALLS[name](x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_outs_that_overlap_in_part_are_refused():
    big, zero = torch.zeros(4, 4, 8), torch.zeros(3, 8)
    x, y = big[:3], torch.zeros(3, 4, 8)
    with pytest.raises(ValueError, match="'out' overlaps 'x' in part"):
        adaln_modulate(x, zero, zero, out=big[1:])
    with pytest.raises(ValueError, match="'out' overlaps 'x' in part"):
        adaln_gate(x, y, zero, out=big[1:])
    with pytest.raises(ValueError, match=r"'out\[1\]' overlaps 'y' in part"):
        adaln_gate_modulate(y, x, zero, zero, zero, out=(torch.zeros(3, 4, 8), big[1:]))
    with pytest.raises(ValueError, match="'out' must be two tensors apart"):
        adaln_gate_modulate(x, y, zero, zero, zero, out=(y.clone(),) * 2)
    parameters = torch.zeros(5, 12)
    s, t = parameters.chunk(2, dim=1)
    with pytest.raises(ValueError, match="'out' overlaps 's' in part"):
        affine_coupling(torch.zeros(5, 6), s, t, out=parameters[:, 3:9])
    affine_coupling(torch.zeros(5, 6), s, t, out=s)
