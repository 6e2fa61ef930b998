"""The means and deviations that vectors are brought to mean 0 and variance 1 by."""

import numpy as np
import pytest

from gensys import domain
from gensys.data.quarantine import readable
from gensys.domain import open_domain


@pytest.fixture
def rising(tmp_path):
    """1,000 rows in the order of their first column; the second is far from 0, the third never changes."""
    x = np.random.default_rng(0).normal(size=(1000, 3)) * [1.0, 0.1, 0.0] + [0.0, 1e4, 0.1]
    np.save(tmp_path / "rising.npy", x[x[:, 0].argsort()].astype(np.float32))
    return open_domain(str(tmp_path / "rising.npy"))


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_moments_are_those_of_the_rows_to_train_on(rising, monkeypatch, block):
    monkeypatch.setattr(domain, "_BLOCK", block)
    mean, std = rising.moments()
    x = np.asarray(rising.source.x, np.float64)[readable(rising.source)[0].numpy()]
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std[:2], x[:, :2].std(0), rtol=1e-9)
    assert (mean[2], std[2]) == (np.float32(0.1), 0.0)


def test_the_rows_that_are_measured_are_from_all_of_the_data(rising, monkeypatch):
    mean, std = rising.moments()
    monkeypatch.setattr(domain, "_MEASURED", 50)
    few_mean, few_std = rising.moments()
    assert few_mean[0] == pytest.approx(mean[0], abs=0.1)  # that of the first 50 is -2
    assert few_std[0] == pytest.approx(std[0], rel=0.1)
