"""Activations of a network, seen from outside, inside a `with` block that leaves nothing behind.

Modules are seen by forward hooks, functional activations (``F.relu`` in a ``forward``, which nothing can
hook) by a `TorchFunctionMode`. Both exist only inside the block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from plasticity.settings import nearest
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

_CHANNELS_AT_1 = frozenset(
    {"group_norm", "instance_norm", "batch_norm", "interpolate", "local_response_norm"}
    | {f"conv{n}d" for n in (1, 2, 3)}
    | {f"conv_transpose{n}d" for n in (1, 2, 3)}
    | {f"{kind}_pool{n}d" for kind in ("max", "avg", "lp", "adaptive_max", "adaptive_avg") for n in (1, 2, 3)}
)  # fmt: skip
_CHANNELS_LAST = frozenset(
    {"linear", "bilinear", "layer_norm", "rms_norm", "embedding", "scaled_dot_product_attention"}
)
# What may move or remake the axes, so that nothing is known of the result. "__get__" is `.mT` and its kind.
_REARRANGING = frozenset(
    {"transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "adjoint", "__get__"}
    | {"view", "reshape", "unflatten", "flatten", "matmul", "__matmul__", "bmm", "baddbmm", "einsum"}
)  # fmt: skip


class Activations(dict[str, Tensor]):
    """Outputs by layer name, in the order in which the network made them.

    Each is a detached copy, on its device and in its dtype.
    """

    channels_last: dict[str, bool]
    """For each name, whether the units are the last axis (or axis 1, as in a convolution map)."""

    def __init__(self) -> None:
        super().__init__()
        self.channels_last = {}

    def units(self, name: str) -> Tensor:
        """The output of one layer as a feature matrix, by `unit_matrix`. Shape: (rows, units)."""
        try:
            return unit_matrix(self[name], self.channels_last[name])
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error


def unit_matrix(activation: Tensor, channels_last: bool | None = None) -> Tensor:
    """An activation as a feature matrix: a row per sample and position, a column per unit.

    A convolution map counts one unit per channel, not one per pixel: its rows are samples × positions.

    Args:
        activation: Output of one layer for a batch. Shape: (batch, units), (batch, *positions, units) or
            (batch, units, *positions), with one to three axes of positions.
        channels_last: Which of the last two forms it is. None takes three axes for
            (batch, positions, units), as a linear layer makes of a sequence, and four or five for
            (batch, units, *positions), as a convolution does. An output of a one-dimensional convolution
            needs False. Two axes have only one form.

    Returns:
        A view where possible. Shape: (rows, units).

    Raises:
        ValueError: if the activation has fewer than two or more than five axes.
    """
    axes = activation.ndim
    if not 2 <= axes <= 5:
        raise ValueError(
            f"an activation of shape {tuple(activation.shape)} cannot be split into samples and units; "
            "expected (batch, units), (batch, positions, units) or (batch, channels, *positions). "
            "Feed a batch, or name other layers."
        )
    if channels_last is None:
        channels_last = axes == 3
    if axes > 2 and not channels_last:
        activation = activation.movedim(1, -1)
    return activation.reshape(-1, activation.shape[-1])


@contextmanager
def capture(model: nn.Module, layers: Iterable[str] | None = None) -> Iterator[Activations]:
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

    Args:
        model: Any module. Calls of it from other threads are not supported inside the block.
        layers: Names of the outputs to keep: of modules (any that give one tensor), or of functional
            activations. None keeps every elementwise activation, module or functional.

    Yields:
        The dictionary, filled by each forward pass, in the order of execution. Detached; no gradient.

    Raises:
        ValueError: at entry, if a name can be neither a module nor a functional activation; at exit, if a
            named layer never ran (not after another exception).
        TypeError: at entry, as `raw_module`, or if `layers` is one string; in the forward pass, if a named
            module gives something other than a tensor.
    """
    given, model = model, raw_module(model)
    recorder = _Recorder(model, _require_known(model, layers))
    with ExitStack() as block:
        recorder.attach(block)
        block.enter_context(bypassed(given))
        block.enter_context(_FunctionalCalls(recorder))
        yield recorder.activations
    recorder.require_all_seen()


def _module_names(model: nn.Module) -> dict[nn.Module, str]:
    """Submodules by their first name, wrappers left out."""
    return {module: name for name, module in named_modules(model) if module is not model}


def _require_known(model: nn.Module, layers: Iterable[str] | None) -> frozenset[str] | None:
    if layers is None:
        return None
    if isinstance(layers, str):
        raise TypeError(
            f"layers must be a list of names, got the string {layers!r}; use [{layers!r}]"
        )
    wanted = list(layers)
    if not wanted:
        raise ValueError("layers is empty; name a layer, or leave it out to keep every activation")
    names = set(_module_names(model).values())
    for name in wanted:
        base, _, count = name.partition("#")
        counted = count.isdecimal() and int(count) >= 2 and count == str(int(count))
        known = base in names or base in FUNCTIONAL_ACTIVATIONS
        if not known or (name != base and not counted):
            _raise_unknown(model, name)
    return frozenset(wanted)


def _raise_unknown(model: nn.Module, name: str) -> None:
    base = name.partition("#")[0]
    names = _module_names(model)
    aliases = dict(named_modules(model, remove_duplicate=False))
    if base in aliases and aliases[base] in names:
        first = names[aliases[base]]
        raise ValueError(
            f"layer {base!r} is the same module as {first!r}; its outputs are {first!r}, '{first}#2', …"
        )
    hint = nearest(name, [*names.values(), *FUNCTIONAL_ACTIVATIONS])
    raise ValueError(f"the model has no layer {name!r}.{hint} A repeated one is 'relu#2'.")


class _Recorder:
    """What the hooks and the mode of one `capture` share."""

    def __init__(self, model: nn.Module, wanted: frozenset[str] | None) -> None:
        self.activations = Activations()
        self._model = model
        self._wanted = wanted
        self._seen: dict[str, None] = {}  # a set that keeps the order
        self._counts: Counter[str] = Counter()
        self._running = (
            0  # depth of calls of the model: functions elsewhere in the block are not its own
        )
        self._inside = (
            0  # depth of calls of activation modules, whose functions are already counted
        )
        # Where the units of a tensor are, as far as the functions that made it tell. Keyed by identity:
        # comparing tensors would compare their elements.
        self._channels_last: Any = WeakIdKeyDictionary()

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
        for name in sorted(self._wanted or ()):
            if name not in self._seen:
                ran = ", ".join(map(repr, self._seen)) or "none; was the model called in the block?"
                raise ValueError(f"layer {name!r} did not run inside the block. Ran: {ran}.")

    def after_function(self, name: str, inputs: tuple[Any, ...], result: object) -> None:
        if not self._running or not isinstance(result, Tensor):
            return
        if result.ndim > 2:
            self._note_channels(name, inputs, result)
        name = _OTHER_SPELLINGS.get(name, name)
        if name in FUNCTIONAL_ACTIVATIONS and not self._inside:
            self._record(name, result)

    def _start(self, _module: nn.Module, _args: Any) -> None:
        if self._running == 0:
            self._counts.clear()
            self.activations.clear()
            self.activations.channels_last.clear()
        self._running += 1

    def _stop(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._running -= 1

    def _enter(self, _module: nn.Module, _args: Any) -> None:
        self._inside += 1

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._inside -= 1

    def _module_hook(self, name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: object) -> None:
            if self._running:
                self._record(name, output)

        return hook

    def _names(self, base: str) -> bool:
        return any(name.partition("#")[0] == base for name in self._wanted or ())

    def _record(self, base: str, output: object) -> None:
        self._counts[base] += 1
        count = self._counts[base]
        name = base if count == 1 else f"{base}#{count}"
        self._seen[name] = None
        if self._wanted is not None and name not in self._wanted:
            return
        if not isinstance(output, Tensor):
            raise TypeError(
                f"layer {name!r} gives a {type(output).__name__}, not a tensor; name a layer inside or "
                "after it"
            )
        self.activations.channels_last[name] = self._channels_last.get(output, output.ndim == 3)
        # A copy, as a later layer may work in place on the same memory.
        self.activations[name] = output.detach().clone()

    def _note_channels(self, name: str, inputs: tuple[Any, ...], result: Tensor) -> None:
        if name in _CHANNELS_AT_1:
            self._channels_last[result] = False
        elif name in _CHANNELS_LAST:
            self._channels_last[result] = True
        elif name not in _REARRANGING:
            flat = [
                entry
                for arg in inputs
                for entry in (arg if isinstance(arg, (list, tuple)) else (arg,))
            ]
            for source in flat:
                if isinstance(source, Tensor) and source.ndim == result.ndim:
                    known = self._channels_last.get(source)
                    if known is not None:
                        self._channels_last[result] = known
                        return


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
        self._recorder.after_function(name, (*args, *kwargs.values()), result)
        return result
