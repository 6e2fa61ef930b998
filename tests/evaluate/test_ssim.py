"""Structural similarity: its axioms, windows by hand, and pytorch-msssim."""

import math

import pytest
import torch

from gensys.evaluate import ssim as module
from gensys.evaluate.ssim import WEIGHTS, least_side, most_scales, ms_ssim, ssim


def images(n, seed=0, side=40, channels=3):
    """Smooth random images in [-1, 1], float64."""
    x = torch.rand(n, channels, side // 4, side // 4, generator=torch.Generator().manual_seed(seed)).double()
    return torch.nn.functional.interpolate(x, size=(side, side), mode="bilinear") * 2.0 - 1.0


A, B = images(5), images(5, 1)


def test_of_equal_images_is_one_and_the_order_does_not_matter():
    assert torch.equal(ssim(A, A), torch.ones(5).double())
    torch.testing.assert_close(ms_ssim(A, A, scales=2).values, torch.ones(5).double(), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(ssim(A, B), ssim(B, A), rtol=1e-13, atol=0.0)
    assert float(ssim(A, B).max()) < 0.9


def test_of_two_shades_is_their_brightness_alone():
    """No variance: SSIM = (2 m n + C1) / (m^2 + n^2 + C1), of values moved to [0, 2], C1 = 0.0004."""
    shade = torch.full((1, 1, 12, 15), 1.0, dtype=torch.float64)
    wanted = (2 * 0.5 * 1.5 + 4e-4) / (0.25 + 2.25 + 4e-4)
    assert float(ssim(shade * -0.5, shade * 0.5)) == pytest.approx(wanted, rel=1e-10)


def test_one_window_by_hand():
    x, y = images(1, 2, 44, 1)[..., 5:16, 7:18], images(1, 3, 44, 1)[..., 5:16, 7:18]  # 11 x 11: there is one window
    at = torch.arange(11).double() - 5
    g = torch.exp(-(at[:, None] ** 2 + at**2) / 4.5)
    g = g / g.sum()
    mean_x, mean_y = (g * (x + 1)).sum(), (g * (y + 1)).sum()
    var_x, var_y = (g * (x + 1 - mean_x) ** 2).sum(), (g * (y + 1 - mean_y) ** 2).sum()
    cov = (g * (x + 1 - mean_x) * (y + 1 - mean_y)).sum()
    c1, c2 = 0.02**2, 0.06**2
    wanted = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert float(ssim(x, y)) == pytest.approx(float(wanted), rel=1e-10)


def test_the_range_of_values_is_a_matter_of_units():
    bytes_a, bytes_b = (A + 1) * 127.5, (B + 1) * 127.5
    torch.testing.assert_close(ssim(bytes_a, bytes_b, low=0.0, high=255.0), ssim(A, B), rtol=1e-10, atol=0.0)
    got = ms_ssim(bytes_a, bytes_b, low=0.0, high=255.0, scales=2).values
    torch.testing.assert_close(got, ms_ssim(A, B, scales=2).values, rtol=1e-10, atol=0.0)


def test_more_noise_is_less_similar():
    noise = torch.randn(A.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    values = [float(ssim(A, A + scale * noise).mean()) for scale in (0.0, 0.05, 0.1, 0.3)]
    assert values == sorted(values, reverse=True)


def test_negatives_have_no_similarity_but_a_number():
    x = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    assert float(ssim(x, -x)) < -0.5
    assert float(ms_ssim(x, -x, scales=2).values) == 0.0


def test_fewer_scales_say_so_and_their_weights_add_up_to_one():
    found = ms_ssim(A, B, scales=2)
    assert found.scales == 2
    assert found.weights == pytest.approx([0.0448 / 0.3304, 0.2856 / 0.3304])
    assert [sum(ms_ssim(A, B, scales=k).weights) for k in (1, 2)] == pytest.approx([1.0, 1.0])
    assert sum(WEIGHTS) == pytest.approx(1.0001)
    near = 0.7 * A + 0.3 * B  # whose channels are all above 0
    torch.testing.assert_close(ms_ssim(A, near, scales=1).values, ssim(A, near), rtol=1e-13, atol=0.0)


def test_two_scales_by_hand():
    """Even sides: the second scale is the mean of 2 x 2 pixels, and only the last has the brightness."""
    half = [torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0) for x in (A, B)]
    unlit = []
    for x, y in zip(A[:, :, None].flatten(0, 1), B[:, :, None].flatten(0, 1), strict=True):
        # With a large common brightness l is 1: what remains is cs.
        unlit.append(ssim(x[None] + 1e4, y[None] + 1e4)[0])
    contrast = torch.stack(unlit).view(5, 3)
    last = torch.stack([ssim(half[0][:, c : c + 1], half[1][:, c : c + 1]) for c in range(3)], 1)
    w = ms_ssim(A, B, scales=2).weights
    wanted = (contrast.clamp_min(0) ** w[0] * last.clamp_min(0) ** w[1]).mean(1)
    torch.testing.assert_close(ms_ssim(A, B, scales=2).values, wanted, rtol=1e-5, atol=0.0)


def test_an_odd_side_repeats_its_last_row():
    x = torch.tensor([[1.0, 3.0, 8.0], [5.0, 7.0, 4.0], [2.0, 0.0, 9.0]])[None, None]
    assert module._halved(x).tolist() == [[[[4.0, 6.0], [1.0, 9.0]]]]
    assert module._halved(x[..., :2, :]).tolist() == [[[[4.0, 6.0]]]]


def test_sides_and_scales_are_each_others_inverse():
    assert [least_side(k) for k in range(1, 6)] == [11, 21, 41, 81, 161]
    assert [most_scales(side) for side in (10, 11, 20, 21, 28, 32, 64, 81, 160, 161, 1000)] == [
        0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5,
    ]  # fmt: skip
    assert ms_ssim(images(1, 0, 164)[..., :161], images(1, 1, 164)[..., :161]).scales == 5


def test_rows_do_not_depend_on_each_other():
    many, others = images(70, 2, 24, 1), images(70, 3, 24, 1)
    torch.testing.assert_close(ssim(many, others)[66:68], ssim(many[66:68], others[66:68]), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(("side", "channels"), [(176, 1), (192, 3), (256, 3)])
def test_equals_pytorch_msssim(side, channels):
    """Sides that stay even; it expects [0, L]."""
    peer = pytest.importorskip("pytorch_msssim", reason="needs pytorch-msssim as a reference")
    a = images(2, 4, side, channels)
    b = 0.7 * a + 0.3 * images(2, 5, side, channels)
    got, multi = ssim(a, b), ms_ssim(a, b)
    torch.testing.assert_close(got, peer.ssim(a + 1, b + 1, data_range=2.0, size_average=False), rtol=1e-6, atol=0.0)
    wanted = peer.ms_ssim(a + 1, b + 1, data_range=2.0, size_average=False)
    torch.testing.assert_close(multi.values, wanted, rtol=1e-6, atol=0.0)
    assert 0.1 < float(multi.values.min()) < 0.99
    fewer = [weight / sum(WEIGHTS[:3]) for weight in WEIGHTS[:3]]
    wanted = peer.ms_ssim(a + 1, b + 1, data_range=2.0, size_average=False, weights=fewer)
    torch.testing.assert_close(ms_ssim(a, b, scales=3).values, wanted, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("b", "settings", "match"),
    [
        (B[:4], {}, "'b' must have 5 rows as 'a' has, got 4"),
        (B[:, :, :30], {}, "'b' must hold images of shape"),
        (B * math.nan, {}, "'b' must be finite"),
        (B, {"scales": 5}, r"at least 161 pixels for 5 scales, got 40; try scales=2"),
        (B, {"scales": 0}, "'scales' must be 1 to 5, got 0"),
        (B, {"scales": 6}, "'scales' must be 1 to 5, got 6"),
        (B, {"low": 1.0, "scales": 1}, "'low' must be below 'high', got 1.0 and 1.0"),
    ],
)
def test_errors_name_the_argument(b, settings, match):
    with pytest.raises(ValueError, match=match):
        ms_ssim(A, b, **settings)


def test_images_smaller_than_the_window_need_to_be_larger():
    with pytest.raises(ValueError, match="at least 11 pixels for 1 scales, got 8; try larger images"):
        ssim(A[..., :8], B[..., :8])
