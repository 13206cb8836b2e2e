"""Tracking of a network's plasticity at task boundaries, without disturbing its training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from plasticity.checks import plain_number, require_integer
from plasticity.metrics import norms
from plasticity.metrics.activations import Activations, Axes
from plasticity.metrics.capture import capture
from plasticity.metrics.event_files import EventFiles, write_scalars
from plasticity.metrics.measuring import (
    GIVE_LOSS,
    Measurement,
    Opened,
    host_numbers,
    is_finite,
    require_activations,
)
from plasticity.metrics.probe_batches import ProbeBatch, mask_tensor, masked_features, required_mask
from plasticity.metrics.registry import DEFAULT_METRICS, Metric, add_values, resolved_metrics
from plasticity.metrics.row_file import RowFile, made_again
from plasticity.preserve_state import preserve_state
from plasticity.units.numbers import UnitLayout
from plasticity.wrappers import named_parameters, raw_module

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Tracker"]


class Tracker:
    """Tracker that measures a model on a fixed probe batch, and keeps a row of numbers per task.

    ::

        with Tracker(model, probe, log_dir="runs/mine", path="runs/mine/metrics.jsonl") as tracker:
            for k, task in enumerate(stream):
                train(model, task)
                tracker.boundary(task=k, test_accuracy=accuracy(model, task))

    Measuring never disturbs the run: it trains the same weights, bit for bit, with and without it. The probe
    runs in evaluation mode (without dropout; normalisation layers use their running statistics and do not
    update them), without gradients and without autocast. Each module's training flag, the parameters and
    buffers, the random state (of torch on the CPU and on the model's devices, of NumPy and Python) and
    ``.grad`` are restored afterwards, even after an error. For a wrapped model (`torch.compile`,
    `DistributedDataParallel`, `DataParallel`), or one with wrapped parts, the modules inside are measured,
    under their own names.

    The rank metrics share one decomposition, batched over layers of the same shape. Numbers stay on the
    device until the host reads them all at once; before that, the host synchronizes only where a rank
    function checks that its features are finite, where buffers are compared with their earlier values, and,
    at a boundary, for ``diverged``.

    Metrics that need data or arguments are wrapped in a `Metric`, as in
    ``Metric("ntk_rank", lambda model: ntk_rank(model, inputs), "model")``. For dead units of tanh or sigmoid
    layers: ``Metric("saturated_fraction", partial(dead_fraction, saturating=True), "features")``.

    **Calling convention**: the model is called as ``model(probe_batch)``; a tuple is passed as positional
    arguments; a mapping (a dictionary, Hugging Face's ``BatchEncoding``) is passed as keywords if all its
    keys are parameters of the model's ``forward``, if at least one is and ``forward`` takes ``**kwargs``, or
    if ``forward`` takes nothing but ``**kwargs``. Where that is not what you want (a ``forward(batch)`` with
    a key named "batch"), pass ``forward=lambda model, batch: model(batch)``.

    **Resuming**: a run that is resumed at task k, by a new tracker or after `load_state_dict`, continues
    exactly: at its first boundary, rows of task k and later are removed from `rows`, from the file and from
    `log_dir` (a log message gives their number), and so is a line that was unfinished when the run was
    killed. Use a file and a folder for the rows of one run only. From then on rows are only added, even for
    repeated tasks. In a cyclic stream (tasks 0, 1, 2, 0, …), earlier rounds are kept: only rows since the
    task numbers last decreased are removed. At task 0, a tracker without a loaded state removes all rows: the
    run starts over.

    Args:
        model: Any module that `capture` supports, with lazy parameters initialised.
        probe_batch: Input of the model, with the batch as the first axis: a tensor; an array, whose
            floating-point numbers are converted to the model's dtype; a mapping; a tuple of several
            arguments; or any batch object (PackedSequence, TensorDict, PyG's Data), moved to the device by
            its ``.to`` if it has one. A copy is kept on the model's device, and moves with the model.
        metrics: Names in `METRICS`, and `Metric` objects, in the order of the rows.
        layers: As in `capture`: names of modules or functional activations; None takes every activation.
        units: As in `capture`: axis of a layer's units, where the operations that made it do not determine
            it.
        forward: Function ``forward(model, batch)`` that runs the model, for batches of any kind. It gets the
            module inside wrappers, and must call it as a module: computations in other methods of the model
            are not captured.
        loss: Function ``loss(model)`` that returns the loss on labelled samples, a scalar with a graph, for
            metrics of the curvature ("hessian_rank"). It is called with the module inside wrappers, in
            evaluation mode.
        mask: Mask of the positions that hold data, for batches with padding: true, or 1, for data. Only rows
            of such positions are measured; layers without an axis of positions keep all rows. A tensor or an
            array of shape (batch, positions), or the name of an entry of the batch, such as "attention_mask".
        log_dir: Folder for TensorBoard events; made if missing. "diverged" is written only if it is true.
        writer: SummaryWriter to use instead of `log_dir`. It is flushed, but not closed, and none of its
            events are removed: after a restart, open it with ``purge_step``.
        path: File of JSON lines to append rows to; made if missing, with its folder.

    Raises:
        ValueError: if a metric is unknown (suggesting the nearest), given twice, or needs a loss; if a layer
            is unknown or does not run, or two have the same key in a row; if no activation is found; if
            parameters are lazy or on the meta device; if a mask does not fit; if both `log_dir` and `writer`
            are given; if the file holds something other than JSON lines. The probe runs once at construction,
            so that these errors do not appear only at the first boundary.
        TypeError: if an argument has the wrong type.
        OSError: if `log_dir` or `path` cannot be written.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> tracker = Tracker(model, torch.randn(8, 4), metrics=["effective_rank"])
        >>> list(tracker.boundary(task=0, accuracy=0.9))
        ['task', 'accuracy', 'effective_rank/1', 'diverged']
    """

    rows: list[dict[str, int | float]]
    """Rows, one per boundary: the task, the extra numbers, ``metric/layer`` in the network's order, in the
    form of `metric_key`, and ``diverged``."""

    layers: tuple[str, ...]
    """Names of the layers that "features" metrics measure, as in `capture`."""

    def __init__(
        self,
        model: nn.Module,
        probe_batch: Any,
        metrics: Iterable[str | Metric] = DEFAULT_METRICS,
        layers: Sequence[str] | None = None,
        *,
        units: Mapping[str, Axes] | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        loss: Callable[[nn.Module], Tensor] | None = None,
        mask: Tensor | np.ndarray[Any, Any] | str | None = None,
        log_dir: str | Path | None = None,
        writer: SummaryWriter | None = None,
        path: str | Path | None = None,
    ) -> None:
        self.rows = []
        self.layers = ()
        self._model = raw_module(model)
        self._metrics = resolved_metrics(metrics)
        self._chosen = layers if layers is None or isinstance(layers, str) else tuple(layers)
        self._previous: dict[str, Tensor] | None = None
        self._before_step: dict[str, Tensor] | None = None
        self._loss = loss
        for metric in self._metrics:
            if metric.kind == "loss" and loss is None:
                raise ValueError(
                    f"metric {metric.name!r} needs the loss on labelled samples: {GIVE_LOSS}"
                )
        self._is_resumed = True
        self._is_new = True
        self._layers_of_metric: dict[str, tuple[str, ...]] = {}
        self._warned = False
        _require_initialised(self._model)
        self._units = units
        self._layouts: dict[str, UnitLayout] | None = None
        self._shapes: dict[str, torch.Size] = {}
        self._forward = forward
        self._mask = mask if mask is None or isinstance(mask, str) else mask_tensor(mask)
        self._probe = ProbeBatch(probe_batch, self._model, forward)
        self._check_probe()
        if writer is not None and log_dir is not None:
            raise ValueError(
                f"got both writer and log_dir={str(log_dir)!r}, which log the same rows; give one of them"
            )
        self._file = None if path is None else RowFile(path, "task")
        self._events = None if log_dir is None else EventFiles(log_dir)
        self._writer = writer

    def measure(self, probe_batch: Any = None) -> dict[str, float]:
        """Measure now, without recording a row.

        Args:
            probe_batch: Probe batch that replaces the earlier one from now on, for streams whose inputs
                change with the task (permuted pixels). None keeps the earlier one.

        Returns:
            The numbers by ``metric/layer`` (a model's single number by ``metric``): metric by metric, in
            the order of the network. "update" metrics refer to the previous boundary; without one, they are
            left out.

        Raises:
            ValueError: if the features of a layer are not finite and a rank is measured (the message names
                the layer); if a metric does not return a single number.
        """
        return self._measured(probe_batch, tolerant=False)[0]

    def boundary(
        self, task: int, probe_batch: Any = None, **extra: float
    ) -> dict[str, int | float]:
        """Measure at the end of a task, keep the row, and write it to TensorBoard and to the file.

        A network that has diverged also gives a row, with NaN for each number that cannot be computed, and a
        warning the first time.

        Args:
            task: Number of the task that ended, from 0; the step in TensorBoard.
            probe_batch: As in `measure`.
            **extra: Additional numbers for the row, such as ``test_accuracy=0.9``.

        Returns:
            The row: "task", the extra numbers, those of `measure`, and "diverged": whether a parameter or a
            feature is NaN or infinite. In the file, numbers that are not finite are null.

        Raises:
            ValueError: if a metric does not return a single number, if the task is negative, or if an extra
                number has the name of another entry. Nothing is recorded then.
            TypeError: if the task is not an integer or an extra value is not a number.
        """
        row: dict[str, int | float] = {"task": require_integer("task", task, minimum=0)}
        row.update({name: _number(name, value) for name, value in extra.items()})
        measured, diverged = self._measured(probe_batch, tolerant=True)
        measured["diverged"] = diverged
        for name in extra:
            if name in measured:
                raise ValueError(
                    f"{name!r} is measured by the tracker; give the extra number another name"
                )
        row.update(measured)
        self._mark()
        if self._is_resumed:
            self._cut(int(row["task"]))
        self.rows.append(row)
        self._write(row)
        if diverged and not self._warned:
            self._warned = True
            warnings.warn(
                f"the network has diverged by task {row['task']}: a parameter or a feature is NaN or "
                "infinite. Its rows are marked as diverged, with NaN for numbers that cannot be computed; "
                "this warning is not repeated.",
                RuntimeWarning,
                stacklevel=2,
            )
        return row

    def before_step(self) -> None:
        """Keep the parameters of this moment for "step" metrics, such as "churn", of the next row.

        Call it before the last optimizer step of a task; it takes the time and memory of a copy of the
        network, which is dropped with the next row. ::

            for step, batch in enumerate(batches):
                if step == len(batches) - 1:
                    tracker.before_step()
                train_step(batch)
            tracker.boundary(task=k)
        """
        self._before_step = norms.parameter_snapshot(self._model)

    def take(self, probe_batch: Any = None) -> tuple[dict[str, float], bool]:
        """Measure as for a row, without keeping one, for callers that keep their own rows.

        Args:
            probe_batch: As in `measure`.

        Returns:
            The numbers, NaN where they cannot be computed in a diverged network, and whether it has diverged.
            The next "update" metrics refer to the parameters at this call.
        """
        taken = self._measured(probe_batch, tolerant=True)
        self._mark()
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next measurement depends on besides the model, for a checkpoint."""
        return {"previous": self._previous, "before_step": self._before_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a `state_dict`, saved on any device, to continue from it."""
        devices = {name: p.device for name, p in named_parameters(self._model)}
        self._previous, self._before_step = (
            kept if kept is None else {name: each.to(devices[name]) for name, each in kept.items()}
            for kept in (state["previous"], state["before_step"])
        )
        self._is_resumed, self._is_new = True, False

    def close(self) -> None:
        """Close the TensorBoard file of `log_dir`, as leaving a ``with`` block does."""
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _mark(self) -> None:
        """Make the current parameters the reference of the next "update" metrics."""
        self._before_step = None
        if any(metric.kind == "update" for metric in self._metrics):
            self._previous = norms.parameter_snapshot(self._model)

    def _cut(self, task: int) -> None:
        """Remove rows of this task and later ones, which the run repeats."""
        anew = self._is_new and task == 0
        removed = made_again([int(row["task"]) for row in self.rows], task, anew=anew)
        self.rows = self.rows[: len(self.rows) - len(removed)]
        if self._events is not None:
            self._events.cut(task, anew=anew)
        if self._file is not None:
            self._file.remove(made_again(self._file.counts, task, anew=anew))
        self._is_resumed = False

    def _check_probe(self) -> None:
        if not any(metric.kind == "features" for metric in self._metrics):
            return
        with preserve_state(self._model):
            features = self._features()
        require_activations(self._model, features)
        self.layers = tuple(features)
        add_values({}, "layer", dict.fromkeys(self.layers))

    def _measured(self, probe_batch: Any, *, tolerant: bool) -> tuple[dict[str, float], bool]:
        """Return the numbers, and whether the network has diverged, which is checked only if tolerant."""
        kept = self._probe
        if probe_batch is not None:
            self._probe = ProbeBatch(probe_batch, self._model, self._forward)
        try:
            with preserve_state(self._model):
                found = self._measurement(tolerant=tolerant)
                values = found.values(self._metrics, self._layers_of_metric)
                return host_numbers(values), tolerant and not found.finite
        except BaseException:
            self._probe = kept
            raise

    def _measurement(self, *, tolerant: bool) -> Measurement:
        features: dict[str, Tensor | None] = {}
        if any(metric.kind == "features" for metric in self._metrics):
            try:
                features.update(self._features())
            except Exception:
                # A model may validate its own values, as torch.distributions do.
                if not tolerant or (is_finite(self._model, ()) and not _has_nan(self._model)):
                    raise
            if tolerant and not features:
                features.update(dict.fromkeys(self.layers))
        alone = nullcontext(
            Opened(self._model, self._previous, self._probe.run, self._before_step, self._loss)
        )
        return Measurement([lambda: alone], features, tolerant=tolerant)

    def _features(self) -> dict[str, Tensor]:
        activations = self._activations(self._layouts)
        shapes = {name: activation.shape for name, activation in activations.items()}
        if self._layouts is not None and shapes != self._shapes:
            activations = self._activations(
                None
            )  # another path through the model, or another model
        self._layouts, self._shapes = dict(activations.layouts), shapes
        mask = self._mask
        if isinstance(mask, str):
            mask = required_mask(self._probe.entry(mask))
        return {name: masked_features(activations, name, mask) for name in activations}

    def _activations(self, layouts: Mapping[str, UnitLayout] | None) -> Activations:
        """Capture the probe; the layouts of the units are reused as long as all shapes stay the same."""
        with capture(self._model, self._chosen, units=self._units, layouts=layouts) as activations:
            self._probe.run(self._model)
        return activations

    def _write(self, row: Mapping[str, int | float]) -> None:
        task = int(row["task"])
        scalars = {key: float(value) for key, value in row.items() if key != "task"}
        if not row["diverged"]:
            del scalars["diverged"]
        if self._events is not None:
            self._events.write(scalars, task)
        if self._writer is not None:
            write_scalars(self._writer, scalars, task)
        if self._file is not None:
            self._file.append(row)


def _require_initialised(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"{name!r} is lazy, and measuring would initialise it; call the model on a batch first"
            )


def _has_nan(model: nn.Module) -> bool:
    """Return whether a buffer, such as a running statistic, has become NaN."""
    floating = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    return any(bool(buffer.isnan().any()) for buffer in floating)


def _number(name: str, value: object) -> int | float:
    number = plain_number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    return number
