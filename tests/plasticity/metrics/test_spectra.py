"""Spectrum of a covariance, against closed forms and numpy."""

import numpy as np
import pytest
import torch

from plasticity import covariance_eigenvalues


def test_independent_units_have_their_variances():
    # Columns ±2, ±1 and a constant, at right angles: variances 4, 1 and 0.
    features = torch.tensor(
        [[2.0, 1.0, 5.0], [2.0, -1.0, 5.0], [-2.0, 1.0, 5.0], [-2.0, -1.0, 5.0]]
    )
    assert covariance_eigenvalues(features).tolist() == pytest.approx([4.0, 1.0, 0.0], abs=1e-6)


def test_equal_units_share_one_direction():
    unit = torch.tensor([[1.0], [-1.0], [3.0], [1.0]])  # mean 1, variance (0 + 4 + 4 + 0) / 4 = 2
    found = covariance_eigenvalues(unit.expand(4, 5))
    assert found.tolist() == pytest.approx([10.0, 0.0, 0.0, 0.0, 0.0], abs=1e-6)
    assert bool((found >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_numpys_of_every_matrix(dtype):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 20, 4, generator=generator, dtype=dtype)
    found = covariance_eigenvalues(features)
    assert found.dtype == dtype
    for where in np.ndindex(2, 3):
        covariance = np.cov(features[where].double().numpy(), rowvar=False, bias=True)
        expected = np.linalg.eigvalsh(covariance)[::-1]
        assert found[where].tolist() == pytest.approx(expected, rel=1e-5)


def test_what_has_no_spectrum_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        covariance_eigenvalues(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="batch, width"):
        covariance_eigenvalues(torch.ones(3))
    with pytest.raises(TypeError, match="real floating-point"):
        covariance_eigenvalues(torch.ones(3, 2, dtype=torch.int64))
