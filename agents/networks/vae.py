"""Variational autoencoder with dense layers, and its loss (Kingma & Welling, 2014; Higgins et al., 2017)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from plasticity.checks import require_integer


class VariationalAutoencoder(nn.Module):
    """Encoder and decoder of two layers each, with SiLU between them.

    Args:
        input_shape: Shape of one input.
        width: Hidden units of the encoder, and of the decoder.
        latent_dim: Dimension of the latent variable.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is below 1.
    """

    encoder: nn.Sequential
    """Network of mean and log variance. Shape: (batch, *input_shape) to (batch, 2 · latent_dim)."""

    decoder: nn.Sequential
    """Network of the reconstruction. Shape: (batch, latent_dim) to (batch, *input_shape)."""

    def __init__(self, input_shape: tuple[int, ...], width: int, latent_dim: int) -> None:
        super().__init__()
        require_integer("width", width, minimum=1)
        require_integer("latent_dim", latent_dim, minimum=1)
        inputs = math.prod(input_shape)
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, 2 * latent_dim)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, width),
            nn.SiLU(),
            nn.Linear(width, inputs),
            nn.Unflatten(1, input_shape),
        )

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latent variable, given inputs.

        Args:
            inputs: Shape: (batch, *input_shape).

        Returns:
            Mean, and logarithm of the variance in each dimension. Shape of each: (batch, latent_dim).
        """
        mean, log_variance = self.encoder(inputs).chunk(2, dim=1)
        return mean, log_variance

    def forward(self, inputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct inputs from a draw of their latent variables.

        Args:
            inputs: Shape: (batch, *input_shape).
            noise: Draws from the standard normal distribution. Shape: (batch, latent_dim).

        Returns:
            Reconstruction, of the inputs' shape; mean and log variance, as `encode` returns them.
        """
        mean, log_variance = self.encode(inputs)
        latents = mean + (log_variance / 2).exp() * noise
        return self.decoder(latents), mean, log_variance


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence of a diagonal Gaussian from the standard one.

    ``½ Σ (exp(log_variance) + mean² - 1 - log_variance)`` (Kingma & Welling, 2014, App. B).

    Args:
        mean: Shape: (..., dimensions).
        log_variance: Logarithm of the variances. Shape: (..., dimensions).

    Returns:
        The divergence in nats, at least 0. Shape: (...).
    """
    terms = log_variance.exp() + mean.square() - 1 - log_variance
    return terms.sum(-1) / 2


def reconstruction_error(inputs: Tensor, reconstruction: Tensor) -> Tensor:
    """Compute the negative log-likelihood of inputs under a Gaussian of variance 1, without its constant.

    Half the squared distance of each input from its reconstruction.

    Args:
        inputs: Shape: (batch, *input_shape).
        reconstruction: Means of the Gaussians. Shape: (batch, *input_shape).

    Returns:
        The error in nats. Shape: (batch,).
    """
    return (inputs - reconstruction).square().flatten(1).sum(1) / 2


def beta_vae_loss(
    inputs: Tensor, reconstruction: Tensor, mean: Tensor, log_variance: Tensor, beta: float
) -> Tensor:
    """Compute the loss of a beta-VAE (Higgins et al., 2017, Eq. 4); beta = 1: the negative evidence bound.

    Args:
        inputs: Shape: (batch, *input_shape).
        reconstruction: As in `reconstruction_error`.
        mean: Means of the latent variables. Shape: (batch, latent_dim).
        log_variance: Logarithms of their variances. Shape: (batch, latent_dim).
        beta: Factor of the divergence.

    Returns:
        The mean over the batch. Shape: ().
    """
    errors = reconstruction_error(inputs, reconstruction)
    return (errors + beta * gaussian_divergence(mean, log_variance)).mean()
