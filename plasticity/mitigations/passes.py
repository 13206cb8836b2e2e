"""Forward passes whose gradients add up to one step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from plasticity.mitigations.progress import Progress


class Passes:
    """Inputs of layers in the forward passes since the last step.

    Those of passes without a backward pass yet are in `Progress`, for penalties. Those of earlier passes wait
    here: they belong to the step if their gradients do, which a loop may have dropped, as after a step that
    a `GradScaler` skipped. That shows in the tensor that holds a gradient: gradients are added up in
    place, and `zero_grad()` makes the next backward pass store others.
    """

    def __init__(self) -> None:
        self._earlier: dict[str, list[Tensor]] = {}
        self._mark: tuple[Tensor, Tensor] | None = None
        self._has_gradients = False

    def record(
        self, layer: str, inputs: Tensor, progress: Progress, parameters: Iterable[Tensor]
    ) -> None:
        """Record the input of a layer in the current pass.

        Args:
            layer: Name of the layer.
            inputs: Its input.
            progress: Where the passes without a backward pass are.
            parameters: Parameters of the optimizer.
        """
        if self._has_gradients:
            self._has_gradients = False
            self.join(progress)
            self._earlier, progress.layer_inputs = progress.layer_inputs, {}
            marked = next((each for each in parameters if each.grad is not None), None)
            if marked is None:
                self._earlier = {}
            else:
                assert marked.grad is not None
                self._mark = marked, marked.grad
        is_first = not progress.layer_inputs or layer == next(iter(progress.layer_inputs))
        if is_first and inputs.requires_grad:
            inputs.register_hook(self._on_backward)  # type: ignore[no-untyped-call]
        progress.layer_inputs.setdefault(layer, []).append(inputs)

    def _on_backward(self, _gradient: Any) -> None:
        self._has_gradients = True

    def join(self, progress: Progress) -> None:
        """Return the earlier passes to `progress`, if their gradients are still there."""
        if self._mark is not None and self._mark[0].grad is self._mark[1]:
            for layer, inputs in progress.layer_inputs.items():
                self._earlier.setdefault(layer, []).extend(inputs)
            progress.layer_inputs = self._earlier
        self._earlier, self._mark = {}, None

    def forget(self) -> None:
        """Forget all passes, after a step."""
        self._earlier, self._mark, self._has_gradients = {}, None, False
