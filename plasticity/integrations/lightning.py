"""Callbacks for Lightning: mitigations on the network, and tracking of its plasticity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from plasticity.checks import require_integer
from plasticity.initialization import Distribution
from plasticity.metrics.registry import DEFAULT_METRICS, Metric
from plasticity.metrics.tracker import Tracker
from plasticity.mitigations.attach import attach
from plasticity.mitigations.attached import Attached
from plasticity.mitigations.base import Mitigation
from plasticity.mitigations.method import require_compatible

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "plasticity.integrations.lightning needs Lightning: pip install 'plasticity[lightning]'.",
        name=error.name,
    ) from error

__all__ = ["MitigationCallback", "TrackingCallback"]


class MitigationCallback(Callback):
    """Callback that lets mitigations act on a module, or a part of it, while Lightning trains it.

    ::

        callback = MitigationCallback(ReDo(every=1000), Syre(strength=1e-3, sigma=0.3), network="network")
        Trainer(callbacks=[callback]).fit(module, batches)

    Its state is in Lightning's checkpoints, from which training continues exactly. Penalties join the
    gradients right before a step, after these are clipped. With several processes, all attach with the same
    seed, and reset the same units. See `attach` for what mitigations do, and with which optimizers.

    Args:
        *mitigations: Mitigations, in the order in which they act.
        network: Name of the part of the module that they act on, whose call is what is seen of a step. Empty:
            the module itself, if its `training_step` calls ``self(inputs)``.
        optimizer: Index of the optimizer that trains it, of those that `configure_optimizers` returns.
        seed: As in `attach`, like the next four.
        inputs: Example of the network's input.
        layers: Names of the hidden layers whose units the mitigations may act on.
        readers: Name of the layer that reads a hidden layer's units.
        initialize: Distributions that weights are drawn from anew.

    Raises:
        TypeError: if an argument is no mitigation.
        ValueError: if mitigations cannot be combined; at the start of training, if one cannot be attached.
    """

    attached: Attached | None = None
    """Mitigations at work, from the start of training: its `boundary(task)` is for the module to call."""

    def __init__(
        self,
        *mitigations: Mitigation,
        network: str = "",
        optimizer: int = 0,
        seed: int = 0,
        inputs: Any = None,
        layers: Sequence[str] | None = None,
        readers: Mapping[str, str] | None = None,
        initialize: Mapping[str, Distribution] | None = None,
    ) -> None:
        require_compatible(mitigations)
        self._mitigations, self._network, self._optimizer = mitigations, network, optimizer
        self._arguments: dict[str, Any] = {
            "seed": seed,
            "inputs": inputs,
            "layers": layers,
            "readers": readers,
            "initialize": initialize,
        }
        self._state: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the mitigations, when weights, optimizers and callbacks have their states."""
        self.attached = attach(
            pl_module.get_submodule(self._network),
            trainer.optimizers[self._optimizer],
            *self._mitigations,
            adds_penalty=True,
            state=self._state,
            **self._arguments,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Detach the mitigations; a further training continues with their state."""
        self._detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Detach the mitigations from a training that failed."""
        self._detach()

    def _detach(self) -> None:
        if self.attached is not None:
            self._state = self.attached.state_dict()
            self.attached.detach()
            self.attached = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the mitigations, for a checkpoint."""
        state = self._state if self.attached is None else self.attached.state_dict()
        return {} if state is None else {"mitigations": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint, for the start of training."""
        self._state = state_dict.get("mitigations")


class TrackingCallback(Callback):
    """Callback that measures a module's plasticity at the ends of epochs, and logs the numbers.

    Process 0 measures and writes; training is not changed. A row's ``task`` is the epoch.

    Args:
        probe_batch: Input of the network to measure on, as in `Tracker`.
        network: Name of the part of the module to measure. Empty: the module itself.
        every: Epochs between measurements, each at the end of an epoch.
        metrics: As in `Tracker`, like the next two.
        layers: Layers to measure.
        path: File of JSON lines to append rows to.

    Raises:
        TypeError: if `every` is no integer.
        ValueError: if `every` is below 1; at the start of training, as in `Tracker`.
    """

    tracker: Tracker | None = None
    """Tracker with its `rows`, from the start of training, in process 0."""

    def __init__(
        self,
        probe_batch: Any,
        *,
        network: str = "",
        every: int = 1,
        metrics: Iterable[str | Metric] = DEFAULT_METRICS,
        layers: Sequence[str] | None = None,
        path: str | Path | None = None,
    ) -> None:
        self._probe, self._network = probe_batch, network
        self._every = require_integer("every", every, minimum=1)
        self._arguments: dict[str, Any] = {"metrics": metrics, "layers": layers, "path": path}
        self._state: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the tracker, in process 0."""
        if trainer.is_global_zero and self.tracker is None:
            model: nn.Module = pl_module.get_submodule(self._network)
            self.tracker = Tracker(model, self._probe, **self._arguments)
            if self._state is not None:
                self.tracker.load_state_dict(self._state)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, and log the numbers under ``plasticity/``."""
        if self.tracker is None or (trainer.current_epoch + 1) % self._every:
            return
        row = self.tracker.boundary(task=trainer.current_epoch)
        numbers = {f"plasticity/{name}": each for name, each in row.items() if name != "task"}
        for each in trainer.loggers:
            each.log_metrics(numbers, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the tracker, for a checkpoint; empty in other processes than 0."""
        return {} if self.tracker is None else self.tracker.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint, for the start of training."""
        self._state = state_dict or None
