"""Masked perceptrons: what an output depends on."""

import pytest
import torch

from gensys.nn.made import MADE


@pytest.mark.parametrize(("dim", "width"), [(40, 8), (9, 8), (8, 8), (5, 8), (2, 8), (1, 8)])
@pytest.mark.parametrize("classes", [0, 3])
def test_outputs_see_elements_before_theirs_from_all_over_the_row(dim, width, classes):
    net = MADE(dim, 2, width=width, classes=classes).double()
    for name, p in net.named_parameters():  # all rectifiers are open: a mask alone can hide an element
        torch.nn.init.constant_(p, 1.0 if name.endswith("bias") else 0.1)
    cond = {"label": torch.tensor([1])} if classes else {}
    seen = torch.func.jacrev(lambda x: net(x[None], cond)[0])(torch.zeros(dim).double()) != 0
    for parameter in seen.unflatten(0, (2, dim)):
        assert not parameter.triu().any(), "none sees itself or what comes after it"
        assert int(parameter[-1].sum()) == dim - 1, "the last one sees all before it, however narrow the layers"
        counts = parameter.sum(1)
        assert bool((counts.diff() >= 0).all())
        assert int((torch.arange(dim) - counts).max()) <= max(1, -(-dim // width)), "and others all but the last few"
