"""NT-Xent, the contrastive loss of SimCLR."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.checks import require_number


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Return the normalized, temperature-scaled cross-entropy of two views of a batch.

    Each of the 2 n outputs has to recognize the other view of its example among the 2 n - 1 other outputs, by
    the cosine of their angle (Chen et al., 2020, "A Simple Framework for Contrastive Learning", Eq. 1).

    Args:
        first: Outputs of the first views. Shape: (n, size).
        second: Outputs of the second views, in the same order. Shape: (n, size).
        temperature: Temperature, above 0.

    Returns:
        Mean over the 2 n outputs. Shape: ().

    Raises:
        ValueError: if the shapes differ, or the temperature is not above 0.
    """
    if first.shape != second.shape or first.dim() != 2:
        raise ValueError(
            "The two views need outputs of one shape (n, size):"
            f" {tuple(first.shape)}, {tuple(second.shape)}."
        )
    if require_number("temperature", temperature, minimum=0.0) == 0:
        raise ValueError("temperature must be above 0.")
    count = len(first)
    outputs = functional.normalize(torch.cat([first, second]), dim=1)
    own = torch.eye(2 * count, dtype=torch.bool, device=outputs.device)
    logits = (outputs @ outputs.T / temperature).masked_fill(own, -torch.inf)
    partners = torch.arange(2 * count, device=outputs.device).roll(count)
    return functional.cross_entropy(logits, partners)
