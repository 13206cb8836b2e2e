"""What a forward pass shows of a network: its layers in order, and which layer reads which.

The weights of a module do not tell who reads its output. A `TorchFunctionMode` sees every call of a torch
function: the output of ``linear`` or a convolution is marked with the layer that owns the weights, the mark
passes through functions that keep neurons apart (activations, dropout, pooling, normalisation, flattening),
and the layer that then receives it is its reader. A marked tensor that goes anywhere else (an addition, a
concatenation) is read in a way that is not followed here, and its layer has no known readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from plasticity.capture import FUNCTIONAL_ACTIVATIONS, capture

WEIGHT_FUNCTIONS = frozenset({"linear", "conv1d", "conv2d", "conv3d"})

KEEPING_NEURONS = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
    | {f"{kind}_pool{n}d" for kind in ("max", "avg", "lp", "adaptive_max", "adaptive_avg") for n in (1, 2, 3)}
    | {"batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"}
    | {"flatten", "contiguous", "clone", "detach", "to", "float", "double"}
    | set(FUNCTIONAL_ACTIVATIONS)
)  # fmt: skip
"""Functions that act on each neuron by itself, or on all alike: a neuron stays the same neuron."""


@dataclass(frozen=True)
class Layer:
    """A weight layer with the activation that follows it, or one of the two alone."""

    name: str
    """Of the weight layer; of the activation where it follows none, or another one of the same layer."""

    owner: str | None
    """Weight layer of that name. None for an activation that has no row of its weights."""

    activation: str | None
    """Function that makes the units, such as "relu". None for output layers, and for a hidden layer that is
    no activation (an LSTM)."""

    captured: str | None
    """Name of the activation in `capture`. None for output layers."""


@dataclass(frozen=True)
class Flow:
    """What one forward pass showed."""

    layers: tuple[Layer, ...]
    """In the order of execution; activations that make the network's output are none of them."""

    pairs: tuple[tuple[str, str], ...]
    """Weight layers whose neurons are read by weight layers alone, each with each reader."""

    def restricted(self, hidden: Sequence[str]) -> Flow:
        """The same with other hidden layers.

        Args:
            hidden: Their names in `capture`. Those that are no activations (an LSTM) come first.
        """
        activations = [layer.captured for layer in self.layers if layer.captured is not None]
        layers = [Layer(name, None, None, name) for name in hidden if name not in activations]
        for layer in self.layers:
            if layer.captured is None or layer.captured in hidden:
                layers.append(layer)
            elif layer.owner is not None:
                layers.append(replace(layer, activation=None, captured=None))
        return replace(self, layers=tuple(layers))


def trace(model: nn.Module, arguments: tuple[Any, ...]) -> Flow:
    """Run the model once, without gradients, and see who reads whom.

    Args:
        model: Any module that `capture` can see into.
        arguments: Of its forward.

    Returns:
        Its layers and their readers.

    Raises:
        TypeError: as `capture`.
    """
    recorder = _Recorder(model)
    # Entered after the capture, so that it sees each function first and the capture's hooks last.
    with torch.no_grad(), capture(model) as activations, recorder:
        output = model(*arguments)
    return Flow(tuple(recorder.layers(list(activations), output)), tuple(recorder.pairs()))


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._owners = {
            id(module.weight): name
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
            # The channels of a grouped convolution cannot be exchanged one by one.
            and getattr(module, "groups", 1) == 1
        }
        self._marks: Any = WeakIdKeyDictionary()  # by identity: comparing would compare elements
        self._order: list[str | _Activation] = []
        self._readers: dict[str, list[str]] = {}
        self._read_otherwise: set[str] = set()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        sources = [self._marks.get(tensor) for tensor in tensors_in((args, kwargs))]
        result = func(*args, **kwargs)
        if next(tensors_in(result), None) is None:
            return result  # a shape, a device: nobody read the values
        name = getattr(func, "__name__", "").partition(".")[0]
        marked = list(dict.fromkeys(mark for mark in sources if mark is not None))
        self._note(name.strip("_"), args, kwargs, marked, result)
        return result

    def _note(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        marked: list[str],
        result: Any,
    ) -> None:
        weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
        owner = self._owners.get(id(weight)) if name in WEIGHT_FUNCTIONS else None
        if owner is not None:
            for source in marked:
                self._read(source, owner)
            self._order.append(owner)
            self._marks[result] = owner
            return
        mark = marked[0] if len(marked) == 1 else None
        keeps = name in KEEPING_NEURONS and isinstance(result, Tensor)
        if name in FUNCTIONAL_ACTIVATIONS:
            self._order.append(_Activation(name, mark, result))
        if keeps and mark is not None:
            self._marks[result] = mark
        else:
            self._read_otherwise.update(marked)

    def _read(self, source: str, reader: str) -> None:
        if source == reader:
            self._read_otherwise.add(source)
        elif reader not in self._readers.setdefault(source, []):
            self._readers[source].append(reader)

    def pairs(self) -> Iterator[tuple[str, str]]:
        for source, readers in self._readers.items():
            if source not in self._read_otherwise:
                yield from ((source, reader) for reader in readers)

    def layers(self, captured: list[str], output: Any) -> Iterator[Layer]:
        activations = [each for each in self._order if isinstance(each, _Activation)]
        if len(activations) != len(captured):
            # An activation module that calls no function of its kind, or several: which name belongs to
            # which function is not known, so weights and activations stay apart.
            weights = dict.fromkeys(each for each in self._order if isinstance(each, str))
            yield from (Layer(name, name, None, None) for name in weights)
            yield from (Layer(name, None, "unknown", name) for name in captured)
            return
        names = dict(zip(activations, captured, strict=True))
        outputs = {id(tensor) for tensor in tensors_in(output)}
        hidden = [each for each in activations if id(each.result) not in outputs]
        first = {each.owner: each for each in reversed(hidden) if each.owner is not None}
        for entry in dict.fromkeys(self._order):
            if isinstance(entry, str):
                follows = first.get(entry)
                if follows is None:
                    yield Layer(entry, entry, None, None)
                else:
                    yield Layer(entry, entry, follows.function, names[follows])
            elif entry in hidden and first.get(entry.owner or "") is not entry:
                yield Layer(names[entry], None, entry.function, names[entry])


@dataclass(frozen=True, eq=False)
class _Activation:
    function: str
    owner: str | None
    result: Any


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors_in(entry)
