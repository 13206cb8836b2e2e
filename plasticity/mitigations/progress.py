"""Latest events in the training of a network, which its mitigations see."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Function of outputs and labels that returns their mean loss, a number."""


@dataclass
class Progress:
    """Latest events in the training of a network, which the contexts of its mitigations share."""

    step: int = 0
    """Optimizer steps done so far, on this network."""

    task: int = 0
    """Index of the current task; at a boundary, of the one that begins."""

    inputs: Tensor | None = None
    """Inputs of the current training step, or of its latest micro-batch; None between two steps."""

    has_other_inputs: bool = False
    """Whether the latest call of the network had more than these: another tensor, or one in a container."""

    example: Tensor | None = None
    """One input of one network, if a mitigation needs it."""

    batch_size: int = 0
    """Examples of the current training step so far, of each network."""

    layer_inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    """Inputs of the layers that were recorded in the latest step, of each of its forward passes, by name."""

    batches: Batches | None = None
    """Function that iterates over the data of the task that begins."""

    loss: Loss = functional.cross_entropy
    """Loss of that task."""

    def forget_step(self) -> None:
        """Drop what is known of a step, after it: memory, and what a run that is continued would not have."""
        self.inputs, self.batch_size, self.layer_inputs = None, 0, {}
