"""The perceptual distance: its closed forms."""

import pytest
import torch

from gensys.evaluate.perceptual import perceptual_distance


def maps(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, *shape, generator=generator) for shape in shapes]


SHAPES = ((3, 8, 8), (7, 4, 2))


def test_of_equal_images_is_zero_and_of_scaled_features_too():
    a = maps(0, *SHAPES)
    assert perceptual_distance(a, a).tolist() == [0.0] * 4
    assert float(perceptual_distance(a, [5.0 * x for x in a]).max()) < 1e-15


def test_counts_what_has_no_direction_as_zero():
    zero, one = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    one[:, 1] = 4.0
    assert perceptual_distance([zero], [zero]).tolist() == [0.0]
    assert float(perceptual_distance([zero], [one])) == pytest.approx(1.0, rel=1e-9)


def test_orthogonal_features_are_two_apart_where_they_are():
    a, b = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 3)
    a[:, 0], b[:, 0] = 1.0, 1.0
    a[0, :, 0, 0], b[0, :, 0, 0] = torch.tensor([0.0, 9.0]), torch.tensor([0.1, 0.0])
    assert float(perceptual_distance([a], [b])) == pytest.approx(2.0 / 6, rel=1e-8)  # one place of six
    a[:, 0], b[:, 0] = 1.0, -1.0
    a[:, 1], b[:, 1] = 0.0, 0.0
    assert float(perceptual_distance([a], [b])) == pytest.approx(4.0, rel=1e-8)


def test_is_twice_one_minus_the_cosine_summed_over_layers():
    a, b = maps(1, *SHAPES), maps(2, *SHAPES)
    wanted = sum(
        2 - 2 * torch.cosine_similarity(x.double(), y.double(), dim=1).mean((1, 2)) for x, y in zip(a, b, strict=True)
    )
    torch.testing.assert_close(perceptual_distance(a, b), wanted, rtol=1e-8, atol=0.0)
    assert torch.equal(perceptual_distance(a, b), perceptual_distance(b, a))
    layers = [perceptual_distance([x], [y]) for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(perceptual_distance(a, b), layers[0] + layers[1])


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        ([], [], "as many layers as 'a', one or more, got 0 and 0"),
        (maps(0, *SHAPES), maps(0, SHAPES[0]), "got 2 and 1"),
        (maps(0, (3, 2, 2)), maps(0, (3, 2, 1)), "layer 0, the same, got"),
        ([torch.zeros(2, 3)], [torch.zeros(2, 3)], r"must be \(n, C, H, W\)"),
        (
            maps(0, (3, 2, 2)),
            [torch.full((4, 3, 2, 2), torch.nan)],
            "'b' must be finite, got NaN or infinity in layer 0",
        ),
    ],
)
def test_errors_name_the_argument(a, b, match):
    with pytest.raises(ValueError, match=match):
        perceptual_distance(a, b)
