"""Per-sample gradients, and the ranks of their Gram matrices (syre, App. C).

Row i of ``J`` is the gradient of sample i's loss (or of one of its outputs) over all trainable parameters.
The ranks are those of ``J Jᵀ``, a (samples, samples) matrix whatever the number of parameters.

The network runs in evaluation mode, so that samples do not mix in BatchNorm and dropout is off; modes,
buffers, gradients and random state are restored afterwards. For a wrapped network (`torch.compile`,
`DistributedDataParallel` …) the module inside is measured; a network on the meta device is a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional

from plasticity.metrics.ranks import effective_rank, numerical_rank
from plasticity.precision import in_float64
from plasticity.preserve_state import preserve_state
from plasticity.wrappers import bypassed, unwrapped

__all__ = [
    "gradient_covariance_rank",
    "neural_tangent_kernel",
    "ntk_rank",
    "per_sample_gradients",
]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Function from the outputs and targets of a batch of one sample to a scalar."""

Measure = Literal["numerical", "effective"]
"""Rank of the Gram matrix to compute: `numerical_rank` or `effective_rank`."""


def per_sample_gradients(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss = functional.cross_entropy,
) -> Tensor:
    """Compute the gradient of each sample's own loss over the trainable parameters.

    Args:
        model: Network that maps a batch to one tensor. Frozen parameters are left out.
        inputs: Samples on the model's device. Shape: (batch, ...).
        targets: Targets of the loss. Shape: (batch, ...).
        loss: Function of the outputs and targets of a batch of one, returning a scalar.

    Returns:
        One row per sample, parameters flattened in the order of ``model.named_parameters()``; detached.
        Shape: (batch, parameters).

    Raises:
        ValueError: if inputs are empty, if inputs and targets differ in number, if the loss is not a
            scalar, if no parameter is trainable, or if a BatchNorm keeps no running statistics (its samples
            have no separate gradients).

    Examples:
        >>> model = nn.Linear(4, 3)
        >>> per_sample_gradients(model, torch.randn(8, 4), torch.zeros(8, dtype=torch.long)).shape
        torch.Size([8, 15])
    """
    require_samples(inputs, targets)
    with _evaluating(model) as network:
        return _loss_gradients(network, inputs, targets, loss)


def gradient_covariance_rank(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss = functional.cross_entropy,
    *,
    measure: Measure = "numerical",
    chunk_size: int | None = None,
) -> Tensor:
    """Compute the rank of the Gram matrix of the per-sample gradients.

    It has the non-zero spectrum of ``Σ_i g_i g_iᵀ``. The gradients are not centred: this is their second
    moment, as in syre's App. C. Centring would lower the rank by at most one, and would assign rank 0 to a
    network whose samples share one gradient direction, although it can still learn.

    Args:
        model: As in `per_sample_gradients`.
        inputs: As in `per_sample_gradients`. Shape: (batch, ...).
        targets: As in `per_sample_gradients`. Shape: (batch, ...).
        loss: As in `per_sample_gradients`.
        measure: Rank to compute. "numerical" counts eigenvalues above ``batch · eps`` times the largest,
            with the eps of the gradients' dtype; "effective" is `effective_rank` of the Gram matrix, whose
            singular values are the *squares* of those of J.
        chunk_size: Number of samples per chunk; the gradients of two chunks are in memory at a time. None:
            one chunk of all samples. With k chunks the gradients are computed (k + 1) / 2 times.

    Returns:
        A scalar: int64 for "numerical", a floating-point number for "effective". 0 if every gradient is 0.

    Raises:
        ValueError: as in `per_sample_gradients`, or if a gradient is not finite, the measure is unknown, or
            chunk_size is below 1.

    Examples:
        >>> inputs, targets = torch.ones(8, 4), torch.zeros(8, dtype=torch.long)  # all samples are equal
        >>> gradient_covariance_rank(nn.Linear(4, 3), inputs, targets).item()
        1
    """
    _require_measure(measure)
    require_samples(inputs, targets)

    with _evaluating(model) as network:
        gram = _gram(
            lambda chunk: _loss_gradients(network, inputs[chunk], targets[chunk], loss),
            len(inputs),
            chunk_size,
        )
    return _rank_of_gram(gram, _dtype_of(model), measure).to(inputs.device)


def neural_tangent_kernel(
    model: nn.Module, inputs: Tensor, *, chunk_size: int | None = None
) -> Tensor:
    """Compute the empirical neural tangent kernel ``J Jᵀ`` with ``J = ∂ outputs / ∂ parameters``.

    The kernel is over samples and outputs. For a linear network ``f(x) = W x`` it is ``(X Xᵀ) ⊗ I``.

    Args:
        model: Network that maps a batch to one tensor. Frozen parameters are left out.
        inputs: Samples on the model's device. Shape: (batch, ...).
        chunk_size: As in `gradient_covariance_rank`; each sample has the gradients of all of its outputs.

    Returns:
        The kernel in float64, row ``i · outputs + a`` for output a of sample i, on the model's device (on
        the CPU for ``mps``, which has no float64). Shape: (batch · outputs, batch · outputs).

    Raises:
        ValueError: if inputs are empty, if no parameter is trainable, if a BatchNorm keeps no running
            statistics, or if chunk_size is below 1.

    Examples:
        >>> neural_tangent_kernel(nn.Linear(2, 1), torch.eye(2))  # inner products, and 1 of the bias
        tensor([[2., 1.],
                [1., 2.]], dtype=torch.float64)
    """
    require_samples(inputs)
    with _evaluating(model) as network:
        return _gram(
            lambda chunk: _output_gradients(network, inputs[chunk]), len(inputs), chunk_size
        )


def ntk_rank(
    model: nn.Module,
    inputs: Tensor,
    *,
    measure: Measure = "numerical",
    chunk_size: int | None = None,
) -> Tensor:
    """Compute the rank of the empirical neural tangent kernel over samples and outputs (syre, App. C).

    Args:
        model: As in `neural_tangent_kernel`.
        inputs: As in `neural_tangent_kernel`. Shape: (batch, ...).
        measure: As in `gradient_covariance_rank`, for the kernel.
        chunk_size: As in `neural_tangent_kernel`.

    Returns:
        A scalar from 0 to batch · outputs: int64 for "numerical", a floating-point number for "effective".

    Raises:
        ValueError: as in `neural_tangent_kernel`, or if a gradient is not finite or the measure is unknown.

    Examples:
        >>> ntk_rank(nn.Linear(2, 1), torch.eye(2)).item()
        2
    """
    _require_measure(measure)
    kernel = neural_tangent_kernel(model, inputs, chunk_size=chunk_size)
    return _rank_of_gram(kernel, _dtype_of(model), measure).to(inputs.device)


def _loss_gradients(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    def sample_loss(values: dict[str, Tensor], sample: Tensor, target: Tensor) -> Tensor:
        value = loss(_batch_of_one(model, values, sample), target[None])
        if value.ndim:
            raise ValueError(
                f"loss must return a scalar for a batch of one, got shape {tuple(value.shape)}; "
                "use reduction='mean'"
            )
        return value

    parameters = _trainable(model)
    gradients = vmap(grad(sample_loss), in_dims=(None, 0, 0))(parameters, inputs, targets)
    return torch.cat([gradients[name].flatten(1) for name in parameters], dim=1)


def _output_gradients(model: nn.Module, inputs: Tensor) -> Tensor:
    def outputs(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        return _batch_of_one(model, values, sample).flatten()

    parameters = _trainable(model)
    jacobian = vmap(jacrev(outputs), in_dims=(None, 0))(parameters, inputs)
    # (samples, outputs, *parameter) → (samples · outputs, parameters)
    return torch.cat([jacobian[name].flatten(2) for name in parameters], dim=2).flatten(0, 1)


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _batch_of_one(model: nn.Module, parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
    # A forward pass may write to its buffers, even in evaluation mode: it gets copies, made inside the
    # transform, which rejects writes to tensors from outside.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    output: Tensor = functional_call(model, {**buffers, **parameters}, (sample[None],))
    return output


def _gram(rows: Callable[[slice], Tensor], samples: int, chunk_size: int | None) -> Tensor:
    """Compute ``J Jᵀ`` in float64, with the rows of two chunks of samples in memory at a time."""
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, or None for one chunk, got {chunk_size}")
    step = chunk_size or samples
    chunks = [slice(start, start + step) for start in range(0, samples, step)]
    blocks: dict[tuple[int, int], Tensor] = {}
    for i, chunk in enumerate(chunks):
        left = in_float64(rows(chunk))
        blocks[i, i] = left @ left.T
        for j in range(i):
            blocks[i, j] = left @ in_float64(rows(chunks[j])).T
            blocks[j, i] = blocks[i, j].T
    order = range(len(chunks))
    return torch.cat([torch.cat([blocks[i, j] for j in order], dim=1) for i in order])


def _rank_of_gram(gram: Tensor, dtype: torch.dtype, measure: Measure) -> Tensor:
    # The gradients carry the rounding error of their dtype, which `numerical_rank` bounds in that dtype. A
    # rank does not depend on scale, so the largest entry becomes 1 and small gradients survive the cast.
    largest = gram.abs().amax()
    if not bool(largest.isfinite()):
        row = int((~gram.diagonal().isfinite()).nonzero()[0])
        raise ValueError(
            f"the gradient in row {row} of the Gram matrix is not finite, so the matrix has no "
            "rank; has the network diverged? Check its loss and its weight norm."
        )
    scaled = (gram / torch.where(largest > 0, largest, 1.0)).to(
        torch.promote_types(dtype, torch.float32)
    )
    return effective_rank(scaled) if measure == "effective" else numerical_rank(scaled)


def _dtype_of(model: nn.Module) -> torch.dtype:
    return next(parameter.dtype for parameter in model.parameters() if parameter.requires_grad)


def require_samples(inputs: Tensor, targets: Tensor | None = None) -> None:
    """Raise a ValueError if there is no sample, or not one target per sample."""
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError(
            f"inputs of shape {tuple(inputs.shape)} hold no sample; give at least one, as (batch, ...)"
        )
    if targets is not None and (targets.ndim == 0 or len(targets) != len(inputs)):
        raise ValueError(
            f"inputs hold {len(inputs)} samples, targets have shape {tuple(targets.shape)}; "
            "give one target per sample"
        )


def _require_measure(measure: str) -> None:
    if measure not in ("numerical", "effective"):
        raise ValueError(f"measure must be 'numerical' or 'effective', got {measure!r}")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the network without wrappers, in evaluation mode, if samples have separate gradients."""
    model = unwrapped(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no parameter of the model requires a gradient; unfreeze those to measure")
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} without running statistics: it "
                "mixes the samples of a batch, which then have no separate gradients; set "
                "track_running_stats=True"
            )
    # `torch.func` differentiates whether or not autograd is on around it.
    with preserve_state(model), bypassed(model):
        yield model
