"""In-context linear regression: prompts of examples of a linear map, which differs from prompt to prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_number


def regression_prompts(
    num_prompts: int,
    num_examples: int,
    input_dim: int,
    generator: torch.Generator,
    *,
    label_noise: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Draw prompts of a linear regression, each with weights of its own (Garg et al., 2022).

    The weights w of a prompt are normal with variance 1 / input_dim, inputs x standard normal, and labels
    ``y = w · x + noise``. Tokens are (x, y) as in von Oswald et al. (2023), and the last one is the query
    (x, 0), whose label without noise is to be predicted. Predicting 0 has a mean squared error of 1.

    Args:
        num_prompts: Prompts in the batch.
        num_examples: Examples in a prompt before its query.
        input_dim: Dimension of the inputs.
        generator: Generator of all draws, on the device that they are made on.
        label_noise: Standard deviation of the noise on the examples' labels.

    Returns:
        The tokens, of shape (prompts, examples + 1, input_dim + 1), and the queries' labels, of shape
        (prompts,).

    Raises:
        TypeError: if a number has the wrong type.
        ValueError: if one is out of range.
    """
    require_integer("num_prompts", num_prompts, minimum=1)
    require_integer("num_examples", num_examples, minimum=1)
    require_integer("input_dim", input_dim, minimum=1)
    require_number("label_noise", label_noise, minimum=0.0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=generator.device)

    weights = normal(num_prompts, input_dim, 1) / input_dim**0.5
    inputs = normal(num_prompts, num_examples + 1, input_dim)
    labels = inputs @ weights
    queried = labels[:, -1, 0].clone()
    labels += label_noise * normal(num_prompts, num_examples + 1, 1)
    labels[:, -1] = 0.0
    return torch.cat([inputs, labels], dim=2), queried
