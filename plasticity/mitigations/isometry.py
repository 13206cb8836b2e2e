"""Isometry: weights that are pulled toward isometries, beside the optimizer, as in AdamO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from plasticity.checks import require_bool, require_number
from plasticity.metrics.isometry import gram_deviation
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.weight_matrices import deviation_gradient, weight_matrices


@mitigation("isometry")
@dataclass(frozen=True, kw_only=True)
class Isometry(Mitigation):
    """Decoupled pull of weights toward isometries, whose singular values are all 1 (Rosseau et al., 2026).

    The regularization of AdamO, arXiv 2606.09762: Adam's moments see the gradient of the task alone, and each
    step also subtracts

        learning rate · strength · r, with r the gradient of |G - I|²,

    where G is the smaller of Wᵀ W and W Wᵀ: r = 4 W (Wᵀ W - I), or 4 (W Wᵀ - I) W. It relates to a penalty as
    AdamW's decay does to an L2 penalty, and works beside any optimizer.

    What is decided here, where we know of no published choice:

    - r is that of the weights before the optimizer's step, from which it is subtracted at once. A decay
      therefore sees the weights after it.
    - A convolution is the matrix of its units by all that each reads: inputs times kernel.
    - Output layers are left alone unless `with_output`; biases, normalizations and embeddings always.
    - The published strength is not known to us. Near 1, a singular value's distance from it shrinks by the
      factor 1 - 8 · learning rate · strength in a step: this is stable as long as learning rate · strength is
      below 1/4, and for weights whose singular values are larger, well below.

    A step costs two products of each weight with its Gram matrix, whatever the batch, which is much for wide
    layers and small batches.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "penalty"
    claims: ClassVar[str] = "the singular values of the weights"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"strength": (1e-2, 1e-1, 1.0)}
    reads_roles: ClassVar[bool] = True

    strength: float = 0.1
    """Factor of the pull, beside the learning rate."""

    with_output: bool = False
    """Whether the weights of output layers are pulled, too."""

    def __post_init__(self) -> None:
        require_number("strength", self.strength, minimum=0.0)
        require_bool("with_output", self.with_output)

    def before_step(self, context: Context) -> None:
        """Pull the weights."""
        for name, matrix in weight_matrices(context, with_output=self.with_output).items():
            weight = context.parameters[name]
            pull = deviation_gradient(matrix, gram_deviation(matrix)).view(weight.shape)
            rate = context.learning_rate(name) * context.per_run(self.strength, weight)
            weight.sub_(rate * pull)
