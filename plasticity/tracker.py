"""Measure a network's plasticity at task boundaries, without disturbing its training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from plasticity import norms, ranks
from plasticity.capture import Activations, capture, raw_module
from plasticity.metrics import DEFAULT_METRICS, METRICS, RANK_METRICS, Metric
from plasticity.settings import nearest, require_integer
from plasticity.undisturbed import undisturbed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Tracker"]


ProbeBatch = Tensor | Mapping[str, Tensor] | tuple[Any, ...]


class Tracker:
    """Measures a model on a fixed probe batch, and keeps a row of numbers per task.

    ::

        with Tracker(model, probe, log_dir="runs/mine", path="runs/mine/metrics.jsonl") as tracker:
            for k, task in enumerate(stream):
                train(model, task)
                tracker.boundary(task=k, test_accuracy=accuracy(model, task))

    Measuring never disturbs: a run trains the same weights, bit for bit, with and without it. The probe
    runs in evaluation mode (dropout off, running statistics of normalisation layers in use and untouched),
    without gradients and without autocast. Each module's own training flag, the buffers, torch's random
    state (of the CPU and of the model's devices) and ``.grad`` are afterwards as before, also after an
    error. A compiled model is measured as the module inside.

    The rank metrics share one decomposition, batched over layers of one shape. Numbers stay on the device
    until the host reads them all at once; before that, it waits only where a rank function checks that its
    features are finite.

    Deeper measures need data or arguments of their own: wrap them in a `Metric`, as in
    ``Metric("ntk_rank", lambda model: ntk_rank(model, inputs), "model")``. Dead units of tanh or sigmoid
    layers: ``Metric("saturated_fraction", partial(dead_fraction, saturating=True), "features")``.

    Args:
        model: Any module that `capture` can see into; its lazy parameters initialised.
        probe_batch: Input of the model: a tensor, a dictionary of tensors, or a tuple of several arguments,
            with the batch as their first axis. A copy is kept on the model's device, and moves with it.
        metrics: Names in `METRICS`, and `Metric` objects. The order is that of the rows.
        layers: As in `capture`: names of modules or functional activations; None takes every activation.
        log_dir: Folder for TensorBoard events; made if missing.
        writer: A SummaryWriter of your own, instead of `log_dir`. It is flushed, but not closed.
        path: File of JSON lines to append rows to; made if missing, with its folder.

    Raises:
        ValueError: if a metric is unknown (naming the nearest) or given twice; if a layer is unknown or
            does not run; if no activation is found; if parameters are lazy; if both `log_dir` and `writer`
            are given. The probe runs once here, so that these do not wait for the first boundary.
        TypeError: if an argument has the wrong type.
        OSError: if `log_dir` or `path` cannot be written.
    """

    rows: list[dict[str, int | float]]
    """One row per boundary: the task, the extra numbers, then ``metric/layer`` in the network's order."""

    def __init__(
        self,
        model: nn.Module,
        probe_batch: ProbeBatch,
        metrics: Iterable[str | Metric] = DEFAULT_METRICS,
        layers: Sequence[str] | None = None,
        *,
        log_dir: str | Path | None = None,
        writer: SummaryWriter | None = None,
        path: str | Path | None = None,
    ) -> None:
        self.rows = []
        self._model = raw_module(model)
        self._metrics = _resolved(metrics)
        self._layers = layers if layers is None or isinstance(layers, str) else tuple(layers)
        self._previous: dict[str, Tensor] | None = None
        _require_initialised(self._model)
        self._arguments = _probe_arguments(probe_batch)
        self._check_probe()
        if writer is not None and log_dir is not None:
            raise ValueError(
                f"give writer or log_dir={str(log_dir)!r}, not both: they log the same rows"
            )
        self._path = _appendable(path)
        self._closes_writer = log_dir is not None
        self._writer = writer if log_dir is None else _summary_writer(log_dir)

    def measure(self, probe_batch: ProbeBatch | None = None) -> dict[str, float]:
        """Measure now, and record nothing.

        Args:
            probe_batch: Used from now on instead of the earlier one: a stream whose inputs change with
                the task (permuted pixels) has a probe of its own for each. None keeps the earlier one.

        Returns:
            The numbers by ``metric/layer`` (a model's single number by ``metric``): metric by metric, in
            the order of the network. "update" metrics are against the previous boundary; without one, they
            are left out.

        Raises:
            ValueError: if the features of a layer are not finite and a rank is measured (the message names
                the layer); if a metric gives no single number.
        """
        kept = self._arguments
        if probe_batch is not None:
            self._arguments = _probe_arguments(probe_batch)
        try:
            with undisturbed(self._model, _devices(self._model)):
                return _read(self._values())
        except BaseException:
            self._arguments = kept
            raise

    def boundary(
        self, task: int, probe_batch: ProbeBatch | None = None, **extra: float
    ) -> dict[str, int | float]:
        """Measure at the end of a task; keep the row, write it to TensorBoard and to the file.

        Args:
            task: Number of the task that ended, from 0; the step in TensorBoard.
            probe_batch: As in `measure`.
            **extra: More numbers for the row, such as ``test_accuracy=0.9``.

        Returns:
            The row: "task", the extra numbers, then `measure`'s. In the file, numbers that are not finite
            are null.

        Raises:
            ValueError: as in `measure`, or if the task is negative, or an extra name is that of a metric.
                Nothing is recorded then.
            TypeError: if the task is no integer or an extra value no number.
        """
        row: dict[str, int | float] = {"task": require_integer("task", task, minimum=0)}
        row.update({name: _number(name, value) for name, value in extra.items()})
        measured = self.measure(probe_batch)
        for name in extra:
            if name in measured:
                raise ValueError(
                    f"{name!r} is measured by the tracker; give the extra number another name"
                )
        row.update(measured)
        if any(metric.kind == "update" for metric in self._metrics):
            self._previous = norms.parameter_snapshot(self._model)
        self.rows.append(row)
        self._log(row)
        return row

    def state_dict(self) -> dict[str, Any]:
        """What the next measurement depends on, beside the model: for a checkpoint of a resumable run."""
        return {"previous": self._previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, saved on any device."""
        previous = state["previous"]
        if previous is not None:
            devices = {name: p.device for name, p in self._model.named_parameters()}
            previous = {name: tensor.to(devices[name]) for name, tensor in previous.items()}
        self._previous = previous

    def close(self) -> None:
        """Close the TensorBoard file of `log_dir`. Leaving a ``with`` block does it too."""
        if self._closes_writer and self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _check_probe(self) -> None:
        if not any(metric.kind == "features" for metric in self._metrics):
            return
        with undisturbed(self._model, _devices(self._model)):
            activations = self._activations()
            if not activations:
                raise ValueError(
                    f"no activation was seen in {type(self._model).__name__}, so there are no features to "
                    "measure; name layers, as in layers=['fc1']"
                )
            for name in activations:
                activations.units(name)

    def _activations(self) -> Activations:
        device = next(iter(_devices(self._model)), None)
        if device is not None:
            self._arguments = tuple(
                _mapped(lambda tensor: tensor.to(device), argument) for argument in self._arguments
            )
        # Copies, as a model may work in place on its input.
        arguments = [_mapped(Tensor.clone, argument) for argument in self._arguments]
        with capture(self._model, self._layers) as activations:
            self._model(*arguments)
        return activations

    def _values(self) -> dict[str, Tensor]:
        features: dict[str, Tensor] = {}
        if any(metric.kind == "features" for metric in self._metrics):
            activations = self._activations()
            features = {name: activations.units(name) for name in activations}
        shared: dict[str, dict[str, Tensor]] = {}
        if any(_is_rank(metric) for metric in self._metrics):
            shared = _rank_summaries(features)
        values: dict[str, Tensor] = {}
        for metric in self._metrics:
            if _is_rank(metric):
                found = {layer: shared[layer][metric.name] for layer in features}
            elif metric.kind == "features":
                found = {
                    layer: _of_layer(metric.function, layer, features[layer]) for layer in features
                }
            else:
                found = self._of_model(metric)
            for layer, value in found.items():
                key = f"{metric.name}/{layer}" if layer else metric.name
                values[key] = _require_scalar(key, value)
        return values

    def _of_model(self, metric: Metric) -> dict[str, Tensor]:
        if metric.kind == "update" and self._previous is None:
            return {}
        arguments = (self._model,) if metric.kind == "model" else (self._model, self._previous)
        # Measures of the model may need gradients of their own (a neural tangent kernel).
        with torch.enable_grad():
            value = metric.function(*arguments)
        return dict(value) if isinstance(value, Mapping) else {"": value}

    def _log(self, row: Mapping[str, int | float]) -> None:
        if self._writer is not None:
            for key, value in row.items():
                if key != "task":
                    # TensorBoard allows no "#" in a tag.
                    tag = key.replace("#", "-")
                    self._writer.add_scalar(tag, value, global_step=row["task"])
            self._writer.flush()
        if self._path is not None:
            finite = {key: value if math.isfinite(value) else None for key, value in row.items()}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite, allow_nan=False) + "\n")


def _is_rank(metric: Metric) -> bool:
    """Whether `rank_summary` gives it; not if it only borrows the name."""
    return metric.name in RANK_METRICS and metric is METRICS[metric.name]


def _rank_summaries(features: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`rank_summary` of each layer, from one batched decomposition for all layers of a shape."""
    groups: dict[Any, list[str]] = {}
    for layer, matrix in features.items():
        groups.setdefault((matrix.shape, matrix.dtype, matrix.device), []).append(layer)
    summaries: dict[str, dict[str, Tensor]] = {}
    for layers in groups.values():
        try:
            stacked = ranks.rank_summary(torch.stack([features[layer] for layer in layers]))
        except (TypeError, ValueError):
            # Which layer it was, and where in it, is told by measuring them one by one.
            for layer in layers:
                _of_layer(ranks.rank_summary, layer, features[layer])
            raise
        for position, layer in enumerate(layers):
            summaries[layer] = {name: values[position] for name, values in stacked.items()}
    return summaries


def _of_layer(function: Callable[[Tensor], Any], layer: str, features: Tensor) -> Any:
    try:
        return function(features)
    except ValueError as error:
        raise ValueError(f"layer {layer!r}: {error}") from error
    except TypeError as error:
        raise TypeError(f"layer {layer!r}: {error}") from error


def _require_scalar(key: str, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim > 0:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise ValueError(
            f"metric {key!r} gave a {type(value).__name__}{shape}; expected one number, a tensor of shape ()"
        )
    return value


def _read(values: Mapping[str, Tensor]) -> dict[str, float]:
    """All numbers in one transfer to the host."""
    if not values:
        return {}
    device = next(iter(values.values())).device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    stacked = torch.stack([value.detach().to(device, dtype) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))


def _resolved(metrics: Iterable[str | Metric]) -> tuple[Metric, ...]:
    if isinstance(metrics, (str, Metric)):
        raise TypeError(f"metrics must be a list, got {metrics!r}; put it in brackets")
    found: dict[str, Metric] = {}
    for entry in metrics:
        if isinstance(entry, str) and entry not in METRICS:
            raise ValueError(f"there is no metric {entry!r}.{nearest(entry, METRICS)}")
        if not isinstance(entry, (str, Metric)):
            raise TypeError(f"a metric is a name or a Metric, got {type(entry).__name__}")
        metric = METRICS[entry] if isinstance(entry, str) else entry
        if metric.name in found:
            raise ValueError(f"metric {metric.name!r} is given twice; give each its own name")
        found[metric.name] = metric
    if not found:
        raise ValueError(f"metrics is empty; give at least one of {', '.join(METRICS)}")
    return tuple(found.values())


def _probe_arguments(probe_batch: object) -> tuple[Any, ...]:
    arguments = probe_batch if isinstance(probe_batch, tuple) else (probe_batch,)
    tensors: list[Tensor] = []

    def kept(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor.detach().clone()

    arguments = tuple(_mapped(kept, argument) for argument in arguments)
    if not tensors:
        raise TypeError(
            "probe_batch must be a tensor, a dictionary of tensors or a tuple of arguments, got "
            f"{type(probe_batch).__name__}"
        )
    return arguments


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to each tensor in a value of tensors, dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _mapped(function, entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        entries = [_mapped(function, entry) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def _require_initialised(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"{name!r} is lazy: measuring would initialise it; call the model on a batch first"
            )


def _devices(model: nn.Module) -> dict[torch.device, None]:
    """The devices of the parameters and buffers, in their order (a dictionary as an ordered set)."""
    return {tensor.device: None for tensor in (*model.parameters(), *model.buffers())}


def _number(name: str, value: object) -> int | float:
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")


def _appendable(path: str | Path | None) -> Path | None:
    if path is None:
        return None
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Fails now, rather than after the first task, where rows cannot be written.
    path.open("a", encoding="utf-8").close()
    return path


def _summary_writer(log_dir: str | Path) -> SummaryWriter:
    # Imported here as it takes a second, and tensorboard to be installed.
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

    return SummaryWriter(str(log_dir))
