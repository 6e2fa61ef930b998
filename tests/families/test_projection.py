"""Projection: an image that the generator made is found again."""

import pytest
import torch

from gensys.families.projection import project
from gensys.nn.mapping import Mapping, StyleGenerator
from gensys.nn.residual_critic import ResidualCritic
from gensys.nn.stylegan import StyleSynthesis
from gensys.noise import Noise, Stream

SHAPE = (1, 8, 8)
NOISE = Noise(0, torch.arange(3))


@pytest.fixture(scope="module", params=[False, True], ids=["linear", "bounded"])
def generator(request):
    torch.manual_seed(0)
    mapping, synthesis = Mapping(6, 8, depth=2, decay=0.5), StyleSynthesis(SHAPE, 8, (16, 8))
    net = StyleGenerator(mapping, synthesis, bounded=request.param)
    z = Noise(1, torch.arange(256)).normal((6,), Stream.INITIAL)
    for _ in range(10):
        net.mapping(z, {})
    return net.eval()


@pytest.fixture(scope="module")
def images(generator):
    w = generator.styles(NOISE.normal((6,), Stream.INITIAL), {}, NOISE)
    made = generator.synthesis(w).detach()
    return made.tanh() if generator.bounded else made


@pytest.mark.parametrize("extended", [False, True])
def test_an_image_of_the_generator_is_found_again(generator, images, extended):
    torch.manual_seed(0)
    critic = ResidualCritic(SHAPE, (8, 8)).eval()
    found = project(generator, images, NOISE, features=critic.features, steps=150, extended=extended)
    assert found.w.shape == (3, generator.synthesis.layers, 8)
    assert bool((found.distance < 0.05 * found.start).all())
    torch.testing.assert_close(found.images, generator.render(found.w, NOISE))  # strengths of noise begin at 0
    assert bool(((found.images - images).square().mean((1, 2, 3)) < 0.05 * images.var()).all())
    assert all(p.requires_grad and p.grad is None for p in generator.parameters())
    spread = found.w.std(1).amax()
    assert (float(spread) > 0.01) == extended


def test_a_row_is_its_own(generator, images):
    whole = project(generator, images, NOISE, steps=10)
    alone = project(generator, images[1:2], Noise(0, torch.tensor([1])), steps=10)
    torch.testing.assert_close(alone.w, whole.w[1:2], atol=1e-4, rtol=1e-4)


def test_what_cannot_be_projected(generator, images):
    with pytest.raises(ValueError, match=r"'x' must be images of shape \(1, 8, 8\)"):
        project(generator, images[..., :4], NOISE)
    with pytest.raises(ValueError, match="'steps'"):
        project(generator, images, NOISE, steps=0)
    generator.train()
    with pytest.raises(ValueError, match="evaluation mode"):
        project(generator, images, NOISE)
    generator.eval()
