"""Several optimizers of one model as one, such as Muon for its matrices and AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class JointOptimizer(Optimizer):
    """Optimizers of different parameters that take their steps together.

    Its groups and its state are those of its parts, one after the other.

    Args:
        *parts: Optimizers, of which no two have a parameter in common.

    Raises:
        ValueError: if there is none, or two have a parameter in common (torch's message).
    """

    def __init__(self, *parts: Optimizer) -> None:
        if not parts:
            raise ValueError("JointOptimizer needs at least one optimizer: none was given.")
        self.parts = parts
        """The optimizers."""
        super().__init__([group for part in parts for group in part.param_groups], {})

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """State of each parameter, as its optimizer has it."""
        every = {each: own for part in self.parts for each, own in part.state.items()}
        return defaultdict(dict, every)

    @state.setter
    def state(self, _state: Any) -> None:
        """Do nothing: torch sets an empty state, and the parts have theirs."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step with every part.

        Raises:
            ValueError: if there is a closure, which each part would evaluate anew.
        """
        if closure is not None:
            raise ValueError(
                "JointOptimizer.step() takes no closure, which each of its optimizers would evaluate anew:"
                " compute the gradients first."
            )
        for part in self.parts:
            part.step()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the last part, if it is a new one."""
        if not any(param_group is group for part in self.parts for group in part.param_groups):
            self.parts[-1].add_param_group(param_group)
            param_group = self.parts[-1].param_groups[-1]
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each part, in their order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of each part.

        Raises:
            ValueError: if it is that of another number of parts, or of other groups (torch's message).
        """
        saved = state_dict.get("parts", [])
        if len(saved) != len(self.parts):
            raise ValueError(
                f"The state has {len(saved)} parts, but these are {len(self.parts)} optimizers: load one that"
                " was saved by the same ones."
            )
        for part, own in zip(self.parts, saved, strict=True):
            part.load_state_dict(own)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
