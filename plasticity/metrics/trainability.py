"""Trainability: the ability to learn something new, the most direct measure and the most expensive."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.metrics.gradients import require_samples
from plasticity.random_state import random_state, set_random_state
from plasticity.wrappers import unwrapped

__all__ = ["Trainability", "trainability"]

Task = Literal["classification", "regression"]
"""Random task: class labels under cross-entropy, or standard normal targets under the mean squared error."""


@dataclass(frozen=True)
class Trainability:
    """Result of `trainability`.

    Examples:
        >>> Trainability(loss=3.0, fresh_loss=1.5).ratio  # the network has half of a new one's ability
        2.0
    """

    loss: float
    """Loss that the copy of the network reached on the random task; NaN or inf if it diverged."""

    fresh_loss: float
    """Loss that the newly initialised network reached on the same task in the same budget."""

    @property
    def ratio(self) -> float:
        """Ratio ``loss / fresh_loss``: about 1 if the network is as plastic as a new one, above 1 if less.

        It is 1 if both losses are 0, and infinite if only the fresh network reached 0.
        """
        if self.fresh_loss == 0:
            return 1.0 if self.loss == 0 else self.loss * math.inf
        return self.loss / self.fresh_loss


def trainability(
    model: nn.Module,
    inputs: Tensor,
    *,
    task: Task = "classification",
    steps: int = 200,
    learning_rate: float = 1e-3,
    seed: int = 0,
    fresh: nn.Module | None = None,
) -> Trainability:
    """Measure the loss that a network reaches on a random task, and a new network's (Lyle et al., 2023).

    A copy of each is trained in training mode with Adam on all `inputs` at once for `steps` steps; the loss
    is then computed in evaluation mode, over the same inputs. Targets depend only on `seed` and the shape of
    the output, so networks at different times get the same task. The host synchronizes for the two losses at
    the end.

    The model itself, its gradients and buffers, and the global random state are left unchanged.

    Args:
        model: Network that maps a batch to one tensor; of a wrapped one (`torch.compile`,
            `DistributedDataParallel` …), the module inside is measured.
        inputs: Samples, moved to the model's device. Shape: (batch, ...).
        task: Random task. "classification" gives each sample a random class, for outputs of shape (batch,
            classes); "regression" gives each output a standard normal target, for outputs of any shape
            (batch, ...).
        steps: Number of optimizer steps, at least 1.
        learning_rate: Learning rate of Adam, above 0.
        seed: Seed of the targets, of the new network's weights, and of draws in training (dropout).
        fresh: New network; it is copied, too. None re-initialises a copy of `model` by calling the
            ``reset_parameters`` of every submodule, innermost first: pass `fresh` if your network is
            initialised in another way.

    Returns:
        Both losses, as numbers on the host, and their ratio.

    Raises:
        ValueError: if inputs are empty; if steps, learning_rate or task is out of range; if the outputs do
            not fit the task; if no parameter requires a gradient; if the model is on the meta device; or if
            a module with parameters has no ``reset_parameters`` and `fresh` is None.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> found = trainability(model, torch.randn(32, 4), steps=5)
        >>> found.loss > 0, found.fresh_loss > 0
        (True, True)
    """
    _require_budget(inputs, task, steps, learning_rate)
    model = unwrapped(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(
            "no parameter of the model requires a gradient, and a frozen network learns nothing; "
            "unfreeze the parameters to train"
        )
    device = trainable[0].device
    # A tracker may call this with gradients disabled.
    with torch.inference_mode(False), torch.enable_grad(), _own_randomness(device):
        samples = inputs.detach().to(device, copy=True)
        _seed(device, seed)
        newcomer = (
            _reinitialised(model) if fresh is None else copy.deepcopy(unwrapped(fresh)).to(device)
        )
        losses = []
        for learner in (copy.deepcopy(model), newcomer):
            _seed(device, seed)
            losses.append(_reached_loss(learner, samples, task, steps, learning_rate, seed))
    return Trainability(loss=losses[0].item(), fresh_loss=losses[1].item())


def _reached_loss(
    learner: nn.Module, samples: Tensor, task: Task, steps: int, learning_rate: float, seed: int
) -> Tensor:
    learner.eval()
    with torch.no_grad():
        targets = _random_targets(learner(samples), task, seed)
    loss = functional.cross_entropy if task == "classification" else functional.mse_loss
    optimizer = torch.optim.Adam(learner.parameters(), lr=learning_rate)
    learner.train()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(loss(learner(samples), targets))
        optimizer.step()
    learner.eval()
    with torch.no_grad():
        return loss(learner(samples), targets)


def _random_targets(outputs: Tensor, task: Task, seed: int) -> Tensor:
    # Drawn on the CPU, so that every device gets the same task.
    generator = torch.Generator().manual_seed(seed)
    if task == "regression":
        targets = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
        return targets.to(outputs.device, outputs.dtype)
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(
            f"task='classification' needs outputs of shape (batch, classes) with two classes or more, got "
            f"{tuple(outputs.shape)}; use task='regression'"
        )
    return torch.randint(outputs.shape[1], (len(outputs),), generator=generator).to(outputs.device)


def _reinitialised(model: nn.Module) -> nn.Module:
    for name, module in model.named_modules():
        owns = next(module.parameters(recurse=False), None) is not None
        if owns and not callable(getattr(module, "reset_parameters", None)):
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) has parameters but no reset_parameters(); "
                "pass a newly initialised network as fresh="
            )
    newcomer = copy.deepcopy(model)

    def reset(module: nn.Module) -> None:
        # Innermost first: a module's own scheme overrides its children's defaults.
        if callable(getattr(module, "reset_parameters", None)):
            module.reset_parameters()  # type: ignore[operator]

    return newcomer.apply(reset)


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Restore all random generators at the end of the block."""
    state = random_state([device])
    try:
        yield
    finally:
        set_random_state(state)


def _seed(device: torch.device, seed: int) -> None:
    """Seed the CPU and this device only; `torch.manual_seed` would seed every other device, too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _require_budget(inputs: Tensor, task: str, steps: int, learning_rate: float) -> None:
    require_samples(inputs)
    if task not in ("classification", "regression"):
        raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}; 200 is the default")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(
            f"learning_rate must be above 0 and finite, got {learning_rate}; 1e-3 is the default"
        )
