"""Variational autoencoder: its loss against closed forms, and what its parts see."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from plasticity.agents.networks.vae import (
    VariationalAutoencoder,
    beta_vae_loss,
    gaussian_divergence,
    reconstruction_error,
)


def test_the_divergence_of_known_gaussians():
    # The same distribution: 0. A mean of 3: 9 / 2. A variance of e²: (e² - 1 - 2) / 2.
    mean = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    log_variance = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    expected = [0.0, 4.5, (math.e**2 - 3) / 2]
    assert gaussian_divergence(mean, log_variance).tolist() == pytest.approx(expected)


def test_the_divergence_is_that_of_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 4, 5, 3, generator=generator, dtype=torch.float64)
    given = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(given, Normal(torch.zeros_like(mean), 1.0)).sum(-1)
    torch.testing.assert_close(gaussian_divergence(mean, log_variance), expected)


def test_the_error_is_a_log_likelihood():
    inputs, means = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]] * 2)
    assert reconstruction_error(inputs, means).tolist() == [2.5, 0.0]
    likelihood = Normal(means, 1.0).log_prob(inputs).flatten(1).sum(1)
    constant = math.log(2 * math.pi)  # half of it for each of the two pixels
    torch.testing.assert_close(reconstruction_error(inputs, means), -likelihood - constant)


def test_the_loss_of_a_batch():
    inputs, zero = torch.tensor([[2.0], [4.0]]), torch.zeros(2, 1)
    mean = torch.tensor([[1.0], [3.0]])
    # Errors 2 and 8, divergences 0.5 and 4.5: means of 5 and 2.5.
    assert beta_vae_loss(inputs, zero, mean, zero, 1.0).item() == 7.5
    assert beta_vae_loss(inputs, zero, mean, zero, 4.0).item() == 15.0


def test_the_best_beta_vae_of_one_linear_dimension():
    # x ~ N(0, s²) and a linear encoder and decoder: mean a x, variance v, reconstruction w z. The loss
    # ½ (s² (1 - w a)² + w² v) + β / 2 (v + a² s² - 1 - log v) is least at w² = s² - β, v = β / s² and
    # w a = 1 - β / s², as in Lucas et al. (2019), and its latent variable collapses (w = 0) from β = s² on.
    s2, beta = 4.0, 1.5

    def loss(w, a, log_v):
        x = torch.tensor([[2.0], [-2.0]], dtype=torch.float64)  # of mean square s²
        mean = a * x
        spread = (log_v / 2).exp()
        # Two opposite draws of noise, of mean square 1, stand for all.
        parts = [
            beta_vae_loss(x, w * (mean + sign * spread), mean, log_v.expand(2, 1), beta)
            for sign in (1.0, -1.0)
        ]
        return sum(parts) / 2

    w = math.sqrt(s2 - beta)
    values = [w, (1 - beta / s2) / w, math.log(beta / s2)]
    best = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    gradients = torch.autograd.grad(loss(*best), best)
    assert [g.item() for g in gradients] == pytest.approx([0.0] * 3, abs=1e-12)
    collapsed = [torch.tensor(v, dtype=torch.float64) for v in (0.0, 0.0, 0.0)]
    assert loss(*best).item() < loss(*collapsed).item() == s2 / 2


def test_mean_and_variance_make_the_draw():
    torch.manual_seed(0)
    network = VariationalAutoencoder((1, 4, 4), width=8, latent_dim=3)
    inputs, noise = torch.rand(5, 1, 4, 4), torch.randn(5, 3)
    mean, log_variance = network.encode(inputs)
    found = network(inputs, noise)
    assert found[0].shape == (5, 1, 4, 4)
    assert torch.equal(found[1], mean)
    assert torch.equal(found[2], log_variance)
    expected = network.decoder(mean + log_variance.exp().sqrt() * noise)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(network(inputs, torch.zeros(5, 3))[0], network.decoder(mean))


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="latent_dim must be at least 1"):
        VariationalAutoencoder((4,), width=8, latent_dim=0)
    with pytest.raises(TypeError, match="width"):
        VariationalAutoencoder((4,), width=8.0, latent_dim=2)
