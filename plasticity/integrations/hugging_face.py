"""Callbacks for the Trainer of Hugging Face's transformers: mitigations, and tracking of plasticity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from plasticity.checks import require_integer
from plasticity.initialization import Distribution
from plasticity.metrics.registry import DEFAULT_METRICS, Metric
from plasticity.metrics.tracker import Tracker
from plasticity.mitigations.attach import attach
from plasticity.mitigations.attached import Attached
from plasticity.mitigations.base import Mitigation
from plasticity.mitigations.method import require_compatible

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "plasticity.integrations.hugging_face needs transformers: pip install 'plasticity[transformers]'.",
        name=error.name,
    ) from error

__all__ = ["MitigationCallback", "TrackingCallback"]


class MitigationCallback(TrainerCallback):
    """Callback that lets mitigations act on a model while the Trainer trains it.

    ::

        callback = MitigationCallback(Syre(strength=1e-3, sigma=0.3))
        Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()

    Process 0 writes the state into each of the Trainer's checkpoints (`STATE_FILE`), from which
    ``train(resume_from_checkpoint=True)`` continues exactly. Penalties join the gradients right before a
    step, after these are clipped. With several processes, all attach with the same seed, and reset the same
    units. See `attach` for what mitigations do; decays need ``weight_decay=0`` in the TrainingArguments.

    Args:
        *mitigations: Mitigations, in the order in which they act.
        checkpoint: Folder of the checkpoint to continue from, if it is not in the ``output_dir``.
        seed: As in `attach`, like the next three.
        layers: Names of the hidden layers whose units the mitigations may act on. Those of a transformer's
            residual stream cannot be reset: name the inner ones of its feed-forward parts.
        readers: Name of the layer that reads a hidden layer's units.
        initialize: Distributions that weights are drawn from anew.

    Raises:
        TypeError: if an argument is no mitigation.
        ValueError: if mitigations cannot be combined; at the start of training, if one cannot be attached.
        FileNotFoundError: if training continues from a checkpoint without a state of mitigations.
    """

    STATE_FILE = "plasticity_mitigations.pt"

    attached: Attached | None = None
    """Mitigations at work, from the start of training."""

    def __init__(
        self,
        *mitigations: Mitigation,
        checkpoint: str | Path | None = None,
        seed: int = 0,
        layers: Sequence[str] | None = None,
        readers: Mapping[str, str] | None = None,
        initialize: Mapping[str, Distribution] | None = None,
    ) -> None:
        require_compatible(mitigations)
        self._mitigations, self._checkpoint = mitigations, checkpoint
        self._arguments: dict[str, Any] = {
            "seed": seed,
            "layers": layers,
            "readers": readers,
            "initialize": initialize,
        }

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any = None,
        optimizer: Any = None,
        **_others: Any,
    ) -> None:
        """Attach the mitigations, when model and optimizer have their states."""
        self._detach()  # from a training that failed
        own = None
        if state.global_step > 0:
            own = _load(_checkpoint(args, state, self._checkpoint) / self.STATE_FILE)
        self.attached = attach(
            model, optimizer, *self._mitigations, adds_penalty=True, state=own, **self._arguments
        )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Write the state beside the Trainer's, in process 0."""
        if state.is_world_process_zero and self.attached is not None:
            _save(self.attached.state_dict(), _checkpoint(args, state) / self.STATE_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Detach the mitigations."""
        self._detach()

    def _detach(self) -> None:
        if self.attached is not None:
            self.attached.detach()
            self.attached = None


class TrackingCallback(TrainerCallback):
    """Callback that measures a model's plasticity while the Trainer trains it.

    Process 0 measures and writes; training is not changed. A row's ``task`` is the optimizer step.

    Args:
        probe_batch: Input of the model to measure on, as in `Tracker`: a batch of the data collator.
        every: Optimizer steps between measurements.
        metrics: As in `Tracker`, like the next three.
        layers: Layers to measure.
        mask: Mask of the positions that hold data, such as "attention_mask".
        path: File of JSON lines to append rows to.
        log_dir: Folder for TensorBoard events.
        checkpoint: Folder of the checkpoint to continue from, if it is not in the ``output_dir``.

    Raises:
        TypeError: if `every` is no integer.
        ValueError: if `every` is below 1; at the start of training, as in `Tracker`.
        FileNotFoundError: if training continues from a checkpoint without a state of the tracker.
    """

    STATE_FILE = "plasticity_tracker.pt"

    tracker: Tracker | None = None
    """Tracker with its `rows`, from the start of training, in process 0."""

    def __init__(
        self,
        probe_batch: Any,
        *,
        every: int = 1000,
        metrics: Iterable[str | Metric] = DEFAULT_METRICS,
        layers: Sequence[str] | None = None,
        mask: Any = None,
        path: str | Path | None = None,
        log_dir: str | Path | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        self._probe, self._checkpoint = probe_batch, checkpoint
        self._every = require_integer("every", every, minimum=1)
        self._arguments: dict[str, Any] = {
            "metrics": metrics,
            "layers": layers,
            "mask": mask,
            "path": path,
            "log_dir": log_dir,
        }

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any = None,
        **_others: Any,
    ) -> None:
        """Make the tracker, in process 0."""
        if state.is_world_process_zero and self.tracker is None:
            self.tracker = Tracker(model, self._probe, **self._arguments)
            if state.global_step > 0:
                folder = _checkpoint(args, state, self._checkpoint)
                self.tracker.load_state_dict(_load(folder / self.STATE_FILE))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Measure, at multiples of `every` steps."""
        if self.tracker is not None and state.global_step % self._every == 0:
            self.tracker.boundary(task=state.global_step)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Write the tracker's state beside the Trainer's, in process 0."""
        if self.tracker is not None:
            _save(self.tracker.state_dict(), _checkpoint(args, state) / self.STATE_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Close the files."""
        if self.tracker is not None:
            self.tracker.close()


def _checkpoint(
    args: TrainingArguments, state: TrainerState, given: str | Path | None = None
) -> Path:
    """Return the folder that the Trainer saves the present step in, unless another is given."""
    own = Path(args.output_dir) / f"checkpoint-{state.global_step}"
    return own if given is None else Path(given)


def _save(state: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(
            f"Training continues from a checkpoint, but there is no {path}: give checkpoint=, its folder,"
            " which must have been saved with this callback."
        )
    return torch.load(path, map_location="cpu", weights_only=True)
