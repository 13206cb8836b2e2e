"""Activations of a network, seen from outside, inside a `with` block that leaves nothing behind.

Modules are seen by forward hooks, functional activations (``F.relu`` in a ``forward``, which nothing can
hook) by a `TorchFunctionMode`. Both exist only inside the block.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plasticity.settings import nearest, require_integer
from plasticity.unit_numbers import UnitLayout
from plasticity.unit_tracer import UnitTracer
from plasticity.unit_weights import geometry
from plasticity.wrappers import bypassed, named_modules, raw_module

__all__ = ["Activations", "capture", "unit_matrix"]

ACTIVATION_MODULES: tuple[type[nn.Module], ...] = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.SiLU, nn.Sigmoid,
    nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
"""The elementwise activations of torch, subclasses included; softmax, GLU and attention are none."""

FUNCTIONAL_ACTIVATIONS = (
    "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid",
    "mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink",
    "softsign", "tanh", "tanhshrink", "threshold",
)  # fmt: skip
"""The same as functions of `torch.nn.functional`, `torch` or `torch.Tensor`, in-place forms included."""

_OTHER_SPELLINGS = {"log_sigmoid": "logsigmoid", "special_expit": "sigmoid"}

Axes = int | tuple[int, ...]
"""The axis of an activation along which its units lie, or the axes along which they lie jointly."""

# Models and the layers whose unit axis was guessed, so that each is told once.
_told: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Origin:
    """What made an activation."""

    function: str | None
    """Name of the activation function, such as "relu". None: a module that is no activation, or one that
    calls none or several."""

    layers: frozenset[str]
    """Names of the layers (as in `trace_units`) whose units these are; several behind a sum."""

    place: int
    """Number of layers that had run before it, repeated ones included."""

    is_output: bool = False
    """Whether it is part of the model's output."""


class Activations(dict[str, Tensor]):
    """Outputs by layer name, in the order in which the network made them.

    Each is a detached copy, on its device and in its dtype.
    """

    layouts: dict[str, UnitLayout]
    """Where the units lie, for each name where the operations tell (or the user did)."""

    origins: dict[str, Origin]
    """What made each."""

    ran: tuple[str, ...]
    """Names of the layers with weights that ran (as in `trace_units`), in order; repeated ones again."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.ran = ()
        self.layouts = {}
        self.origins = {}
        self._model = model

    def units(self, name: str) -> Tensor:
        """The output of one layer as a feature matrix: a row per sample and position, a column per unit.

        Which axes hold the units is known from the operations that made the output: ``(batch, heads,
        positions, head_dim)`` of a linear layer of 32 units is a matrix of 32 columns, and a flattened
        convolution map one of its channels. Where it is not known (an operation that cannot be followed,
        an activation of the inputs), it is guessed by `unit_matrix`, and a warning says so, once for each
        model and layer; `capture` takes the axis.

        Raises:
            ValueError: if the axis is not known and cannot be guessed, as in `unit_matrix`.
        """
        return self.matrix(name, self[name])

    def matrix(self, name: str, values: Tensor) -> Tensor:
        """Arrange other numbers as `units` arranges an output: a mask of its entries, say.

        Args:
            name: Of the layer.
            values: Shape: that of the layer's output.

        Raises:
            ValueError: as `units`.
        """
        layout = self.layouts.get(name)
        if layout is not None:
            return layout.matrix(values)
        try:
            matrix = unit_matrix(values)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        told = _told.setdefault(self._model, set())
        if values.ndim > 2 and name not in told:
            told.add(name)
            axis = _guessed_axis(values)
            warnings.warn(
                f"which axis of layer {name!r}, of shape {tuple(values.shape)}, holds the units is a "
                f"guess: axis {axis}, as the operations that made it could not be followed. Give it: "
                f"units={{{name!r}: {axis}}}",
                stacklevel=2,
            )
        return matrix


def unit_matrix(activation: Tensor, axis: Axes | None = None) -> Tensor:
    """An activation as a feature matrix: a row per sample and position, a column per unit.

    A convolution map counts one unit per channel, not one per pixel: its rows are samples × positions.

    Args:
        activation: Output of one layer for a batch. Shape: (batch, units), (batch, *positions, units),
            (batch, units, *positions), or any with `axis`.
        axis: Along which the units lie; negative ones count from the end. Several, as in (1, 3) for
            (batch, heads, positions, head_dim): each of their combinations is a unit. None takes the last
            of two or three axes, as a linear layer makes of a sequence, and axis 1 of four or five, as
            convolutions do. An output of a one-dimensional convolution needs 1.

    Returns:
        A view where possible. Shape: (rows, units).

    Raises:
        ValueError: if the activation has no such axis; without `axis`, if it has fewer than two or more
            than five axes.
        TypeError: if the axis is no integer.
    """
    if axis is None:
        axis = _guessed_axis(activation)
    return _given_layout(axis, activation.ndim).matrix(activation)


def _guessed_axis(activation: Tensor) -> int:
    if not 2 <= activation.ndim <= 5:
        raise ValueError(
            f"an activation of shape {tuple(activation.shape)} cannot be split into samples and units; "
            "expected (batch, units), (batch, positions, units) or (batch, channels, *positions). "
            "Feed a batch, or name other layers."
        )
    return 2 if activation.ndim == 3 else 1


def _given_layout(axis: Axes, rank: int) -> UnitLayout:
    axes = axis if isinstance(axis, tuple) else (axis,)
    for each in axes:
        require_integer("axis", each, minimum=-rank, maximum=rank - 1)
    found = tuple(sorted({each % rank for each in axes}))
    if len(found) != len(axes) or not found:
        raise ValueError(f"axis {axis!r} names an axis twice, or none, of {rank}")
    return UnitLayout(found)


@contextmanager
def capture(
    model: nn.Module,
    layers: Iterable[str] | None = None,
    *,
    units: Mapping[str, Axes] | None = None,
) -> Iterator[Activations]:
    """Fill a dictionary with the activations of the forward passes inside the block.

    ::

        with capture(model) as activations:
            model(probe)
        print(effective_rank(activations.units("relu")))

    Names: a module has its name in the model (``trunk.0``, without a wrapper's ``_orig_mod`` or
    ``module``), a functional activation that of its function (``relu`` for ``F.relu``, ``torch.relu_``,
    ``x.relu()`` …), wherever in the model it is called; one that a module of torch calls inside (``nn.ReLU``
    calls ``F.relu``) is the module's, and counts once. The second output of one name in a forward pass is
    ``relu#2``: a module called twice, a shared one, a repeated function, a function named like a module.

    Each forward pass of the model (a call of the model itself, not of a submodule) starts the counting and
    the dictionary over: what stays is the last one. It stays as it was when made, whatever is done in place
    later: it is copied at once, which takes the time of about one more activation. Blocks can be nested.

    A compiled model, or one with compiled parts, runs eagerly inside the block, and compiled again after
    it. An activation that is written out by hand (``x.clamp(min=0)``) is not seen, and one with an
    activation inside it (a tanh approximation of GELU) shows that one. Calls of ``model.forward`` that
    bypass ``model(...)`` are not seen.

    A module that gives several tensors is named with the part that is meant: ``lstm[0]`` (the outputs of an
    LSTM) or ``lstm[1][0]`` of a tuple or list, ``encoder.last_hidden_state`` of a dictionary, a dataclass,
    a named tuple or a Hugging Face output, ``lstm#2[0]`` of the second call.

    Args:
        model: Any module. Calls of it from other threads are not supported inside the block.
        layers: Names of the outputs to keep: of modules, of parts of their outputs, or of functional
            activations. None keeps every elementwise activation, module or functional.
        units: The axis along which a layer's units lie, by name, where `Activations.units` has to guess:
            ``{"relu": 1, "relu#2": -1}``; a tuple, ``(1, 3)``, where they lie along several jointly.

    Yields:
        The dictionary, filled by each forward pass, in the order of execution. Detached; no gradient.

    Raises:
        ValueError: at entry, if a name can be neither a module nor a functional activation; in the forward
            pass, if a module's output has no such part, or a layer has no such axis; at exit, if the model
            was never called, or a named layer never ran (not after another exception).
        TypeError: at entry, as `raw_module`, if `layers` is one string or `units` no mapping to integers; in
            the forward pass, if what is named is not one tensor (the message names its parts).
    """
    given, model = model, raw_module(model)
    recorder = _Recorder(model, _require_known(model, layers), _require_axes(model, layers, units))
    with ExitStack() as block:
        recorder.tracer.attach(block)
        recorder.attach(block)
        block.enter_context(bypassed(given))
        block.enter_context(_FunctionalCalls(recorder))
        yield recorder.activations
    recorder.require_all_seen()


def _module_names(model: nn.Module) -> dict[nn.Module, str]:
    """Submodules by their first name, wrappers left out."""
    return {module: name for name, module in named_modules(model) if module is not model}


@dataclass(frozen=True)
class _Wanted:
    """One entry of `layers`: an output, and the part of it that is meant."""

    name: str
    """As the user wrote it; the key in the dictionary."""

    output: str
    """Name of the module or function, with the number of its call: ``lstm#2``."""

    part: tuple[int | str, ...] = ()
    """Indices and keys into the output, from the outside in."""

    @property
    def base(self) -> str:
        return self.output.partition("#")[0]


def _require_known(model: nn.Module, layers: Iterable[str] | None) -> tuple[_Wanted, ...] | None:
    if layers is None:
        return None
    if isinstance(layers, str):
        raise TypeError(
            f"layers must be a list of names, got the string {layers!r}; use [{layers!r}]"
        )
    names = list(dict.fromkeys(layers))
    if not names:
        raise ValueError("layers is empty; name a layer, or leave it out to keep every activation")
    modules = set(_module_names(model).values())
    return tuple(_parsed(model, name, modules) for name in names)


def _require_axes(
    model: nn.Module, layers: Iterable[str] | None, units: Mapping[str, Axes] | None
) -> dict[str, Axes]:
    if units is None:
        return {}
    if not isinstance(units, Mapping):
        raise TypeError(f"units must map names to axes, as in {{'relu': 1}}, got {units!r}")
    modules = set(_module_names(model).values())
    for name, axis in units.items():
        _parsed(model, name, modules)
        if layers is not None and name not in layers:
            raise ValueError(f"units names {name!r}, which layers does not.{nearest(name, layers)}")
        for each in axis if isinstance(axis, tuple) else (axis,):
            if isinstance(each, bool) or not isinstance(each, int):
                raise TypeError(
                    f"units={{{name!r}: {axis!r}}}: expected an integer or a tuple of them"
                )
    return dict(units)


_LAST_PART = re.compile(r"(.+?)(?:\[(-?\d+)\]|\.([^\W\d]\w*))")


def _parsed(model: nn.Module, name: str, modules: set[str]) -> _Wanted:
    """The longest beginning that names a module is the module; the rest is the part of its output."""
    output, part = name, ()  # type: str, tuple[int | str, ...]
    while True:
        base, _, count = output.partition("#")
        counted = count.isdecimal() and int(count) >= 2 and count == str(int(count))
        known = base in modules or (base in FUNCTIONAL_ACTIVATIONS and not part)
        if known and (output == base or counted):
            return _Wanted(name, output, part)
        match = _LAST_PART.fullmatch(output)
        if match is None:
            _raise_unknown(model, name)
        output, index, key = match.groups()
        part = (int(index) if index is not None else key, *part)


def _raise_unknown(model: nn.Module, name: str) -> NoReturn:
    base = name.partition("#")[0]
    names = _module_names(model)
    aliases = dict(named_modules(model, remove_duplicate=False))
    if base in aliases and aliases[base] in names:
        first = names[aliases[base]]
        raise ValueError(
            f"layer {base!r} is the same module as {first!r}; its outputs are {first!r}, '{first}#2', …"
        )
    hint = nearest(name, [*names.values(), *FUNCTIONAL_ACTIVATIONS])
    raise ValueError(
        f"the model has no layer {name!r}.{hint} A repeated one is 'relu#2', a part of an output 'lstm[0]'."
    )


def _part_of(value: Any, wanted: _Wanted, known: Iterable[str]) -> Tensor:
    found = value
    for step in wanted.part:
        try:
            # A dictionary's own key first, as Hugging Face's outputs are dictionaries with attributes.
            by_key = isinstance(step, int) or (isinstance(found, Mapping) and step in found)
            found = found[step] if by_key else getattr(found, str(step))
        except (AttributeError, IndexError, KeyError, TypeError):
            hint = nearest(wanted.name, known)  # a misspelt layer looks like a part of its parent
            raise ValueError(
                f"there is no {wanted.name!r}: {_contents(value, wanted.output)}.{hint}"
            ) from None
    if not isinstance(found, Tensor):
        raise TypeError(
            f"layer {wanted.name!r} gives a {type(found).__name__}, not a tensor: "
            f"{_contents(value, wanted.output)}"
        )
    return found


def _contents(value: Any, name: str) -> str:
    parts = [repr(f"{name}{path}") for path, _ in named_tensors(value)]
    what = f"{name!r} gives a {type(value).__name__}"
    if isinstance(value, Tensor):
        return f"{what}, which has no parts; name {name!r}"
    if not parts:
        return f"{what} without tensors; name a layer inside or after it"
    return f"{what}; name one of {', '.join(parts)}"


def named_tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested dictionaries, sequences and dataclasses, with their paths.

    A path is as in `capture`: ``[0]`` in a list or tuple, ``.key`` in a dictionary, dataclass or named tuple.
    """
    if isinstance(value, Tensor):
        yield path, value
        return
    entries: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        entries = ((f".{key}", entry) for key, entry in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        entries = ((f".{key}", getattr(value, key)) for key in value._fields)
    elif isinstance(value, (list, tuple)):
        entries = ((f"[{index}]", entry) for index, entry in enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        entries = ((f".{each.name}", getattr(value, each.name)) for each in fields(value))
    for step, entry in entries:
        yield from named_tensors(entry, path + step)


class _Recorder:
    """What the hooks and the mode of one `capture` share."""

    def __init__(
        self, model: nn.Module, wanted: tuple[_Wanted, ...] | None, axes: Mapping[str, Axes]
    ) -> None:
        self.tracer = UnitTracer(model)
        self.activations = Activations(model)
        self._model = model
        self._wanted = wanted
        self._axes = axes
        self._given: set[str] = set()  # those of them that were used
        self._called = False
        self._seen: dict[str, None] = {}  # a set that keeps the order
        self._counts: Counter[str] = Counter()
        self._running = (
            0  # depth of calls of the model: functions elsewhere in the block are not its own
        )
        self._inside = (
            0  # depth of calls of activation modules, whose functions are already counted
        )
        self._functions: list[str] = []  # activation functions that an activation module called
        self._places: dict[str, object] = {}  # where in memory each output lies

    def attach(self, block: ExitStack) -> None:
        def add(handle: torch.utils.hooks.RemovableHandle) -> None:
            block.callback(handle.remove)

        add(self._model.register_forward_pre_hook(self._start, prepend=True))
        add(self._model.register_forward_hook(self._stop, always_call=True))
        for module, name in _module_names(self._model).items():
            activation = isinstance(module, ACTIVATION_MODULES)
            if activation:
                add(module.register_forward_pre_hook(self._enter, prepend=True))
                add(module.register_forward_hook(self._leave, always_call=True))
            if activation or self._names(name):
                add(module.register_forward_hook(self._module_hook(name)))

    def require_all_seen(self) -> None:
        if not self._called:
            raise ValueError(
                f"{type(self._model).__name__} was not called in the block, so nothing was captured. Only "
                "calls of the model itself are seen, model(...): not of a part of it, nor of a method such "
                "as .forward or .predict; give capture the module that is called"
            )
        for wanted in self._wanted or ():
            self._require_seen(wanted.name, wanted.output)
        for name in self._axes:
            if name not in self._given:
                ran = ", ".join(map(repr, self.activations)) or "none"
                raise ValueError(f"units names {name!r}, which was not captured. Captured: {ran}.")

    def _require_seen(self, name: str, output: str) -> None:
        if output not in self._seen:
            ran = ", ".join(map(repr, self._seen)) or "none"
            raise ValueError(f"layer {name!r} did not run inside the block. Ran: {ran}.")

    def after_function(self, name: str, result: object) -> None:
        if not self._running or not isinstance(result, Tensor):
            return
        name = _OTHER_SPELLINGS.get(name, name)
        if name in FUNCTIONAL_ACTIVATIONS:
            if self._inside:
                self._functions.append(name)
            else:
                self._record(name, result, name)

    def _start(self, _module: nn.Module, _args: Any) -> None:
        self._called = True
        if self._running == 0:
            self._counts.clear()
            self.activations.clear()
            self.activations.layouts.clear()
            self.activations.origins.clear()
            self._places.clear()
        self._running += 1

    def _stop(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._running -= 1
        if not self._running:
            self.activations.ran = tuple(self.tracer.executed)
            outputs = {geometry(tensor) for _, tensor in named_tensors(output)}
            for name, origin in self.activations.origins.items():
                is_output = self._places[name] in outputs
                self.activations.origins[name] = replace(origin, is_output=is_output)

    def _enter(self, _module: nn.Module, _args: Any) -> None:
        if not self._inside:
            self._functions.clear()
        self._inside += 1

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._inside -= 1

    def _module_hook(self, name: str) -> Any:
        def hook(module: nn.Module, _args: Any, output: object) -> None:
            if self._running:
                activation = isinstance(module, ACTIVATION_MODULES)
                one = activation and len(self._functions) == 1
                self._record(name, output, self._functions[0] if one else None)

        return hook

    def _names(self, base: str) -> bool:
        return any(wanted.base == base for wanted in self._wanted or ())

    def _record(self, base: str, output: object, function: str | None) -> None:
        self._counts[base] += 1
        count = self._counts[base]
        name = base if count == 1 else f"{base}#{count}"
        self._seen[name] = None
        wanted = self._wanted if self._wanted is not None else (_Wanted(name, name),)
        for each in wanted:
            if each.output == name:
                known = _module_names(self._model).values()
                self._keep(each.name, _part_of(output, each, known), function)

    def _keep(self, name: str, output: Tensor, function: str | None) -> None:
        layout = self.tracer.layout(output)
        if name in self._axes:
            self._given.add(name)
            try:
                layout = _given_layout(self._axes[name], output.ndim)
            except ValueError as error:
                raise ValueError(
                    f"units={{{name!r}: {self._axes[name]!r}}}, for an output of shape "
                    f"{tuple(output.shape)}: {error}"
                ) from error
        if layout is not None:
            self.activations.layouts[name] = layout
        self._places[name] = geometry(output)
        layers, place = self.tracer.layers_of(output), len(self.tracer.executed)
        self.activations.origins[name] = Origin(function, layers, place)
        # A copy, as a later layer may work in place on the same memory.
        self.activations[name] = output.detach().clone()


class _FunctionalCalls(TorchFunctionMode):
    """Shows each call of a torch function to a recorder, after it."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # By name, as one function has many objects: F.relu, torch.relu, torch.relu_, Tensor.relu, aten.relu.
        name = getattr(func, "__name__", "").partition(".")[0]
        if not name.startswith("__"):
            name = name.strip("_")
        self._recorder.after_function(name, result)
        return result
