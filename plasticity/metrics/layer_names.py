"""Names of outputs: of modules and activation functions, their repeated calls and their parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NoReturn

from torch import Tensor, nn

from plasticity.checks import nearest
from plasticity.metrics.activations import Axes
from plasticity.wrappers import named_modules

ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.CELU: "celu", nn.ELU: "elu", nn.GELU: "gelu", nn.Hardshrink: "hardshrink",
    nn.Hardsigmoid: "hardsigmoid", nn.Hardswish: "hardswish", nn.Hardtanh: "hardtanh",
    nn.LeakyReLU: "leaky_relu", nn.LogSigmoid: "logsigmoid", nn.Mish: "mish", nn.PReLU: "prelu",
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.RReLU: "rrelu", nn.SELU: "selu", nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu", nn.Softplus: "softplus", nn.Softshrink: "softshrink", nn.Softsign: "softsign",
    nn.Tanh: "tanh", nn.Tanhshrink: "tanhshrink", nn.Threshold: "threshold",
}  # fmt: skip
"""Elementwise activations of torch, and the functions that they call."""

ACTIVATION_MODULES = tuple(ACTIVATIONS)
"""Elementwise activations of torch, including their subclasses; not softmax, GLU or attention."""

FUNCTIONAL_ACTIVATIONS = tuple(ACTIVATIONS.values())
"""Elementwise activations of torch, as functions of `torch.nn.functional`, `torch` or `torch.Tensor`,
including in-place forms."""

OTHER_SPELLINGS = {"log_sigmoid": "logsigmoid", "special_expit": "sigmoid"}
"""Names in `FUNCTIONAL_ACTIVATIONS` by other names of the same functions."""


@dataclass(frozen=True)
class Wanted:
    """Entry of `layers`: an output, and the part of it to keep."""

    name: str
    """Name as the user wrote it; the key in the dictionary."""

    output: str
    """Name of the module or function, with the number of its call: ``lstm#2``."""

    part: tuple[int | str, ...] = ()
    """Indices and keys into the output, from the outside in."""

    @property
    def base(self) -> str:
        """Name of the module or function."""
        return self.output.partition("#")[0]


def require_known(model: nn.Module, layers: Iterable[str] | None) -> tuple[Wanted, ...] | None:
    """Return the entries of `layers`; raise a ValueError or TypeError if an output cannot exist."""
    if layers is None:
        return None
    if isinstance(layers, str):
        raise TypeError(
            f"layers must be a list of names, got the string {layers!r}; use [{layers!r}]"
        )
    names = list(dict.fromkeys(layers))
    if not names:
        raise ValueError("layers is empty; name a layer, or leave it out to keep every activation")
    modules = set(module_names(model).values())
    return tuple(_parsed(model, name, modules) for name in names)


def require_axes(
    model: nn.Module, layers: Iterable[str] | None, units: Mapping[str, Axes] | None
) -> dict[str, Axes]:
    """Return the entries of `units`; raise a ValueError or TypeError as in `capture`."""
    if units is None:
        return {}
    if not isinstance(units, Mapping):
        raise TypeError(f"units must map names to axes, as in {{'relu': 1}}, got {units!r}")
    modules = set(module_names(model).values())
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


def module_names(model: nn.Module) -> dict[nn.Module, str]:
    """Return the submodules with their first names, without wrappers."""
    return {module: name for name, module in named_modules(model) if module is not model}


_LAST_PART = re.compile(r"(.+?)(?:\[(-?\d+)\]|\.([^\W\d]\w*))")


def _parsed(model: nn.Module, name: str, modules: set[str]) -> Wanted:
    """Parse a name: its longest prefix that names a module or function, then the part of the output."""
    output, part = name, ()  # type: str, tuple[int | str, ...]
    while True:
        base, _, count = output.partition("#")
        counted = count.isdecimal() and int(count) >= 2 and count == str(int(count))
        known = base in modules or (base in FUNCTIONAL_ACTIVATIONS and not part)
        if known and (output == base or counted):
            return Wanted(name, output, part)
        match = _LAST_PART.fullmatch(output)
        if match is None:
            _raise_unknown(model, name)
        output, index, key = match.groups()
        part = (int(index) if index is not None else key, *part)


def _raise_unknown(model: nn.Module, name: str) -> NoReturn:
    base = name.partition("#")[0]
    names = module_names(model)
    aliases = dict(named_modules(model, remove_duplicate=False))
    if base in aliases and aliases[base] in names:
        first = names[aliases[base]]
        raise ValueError(
            f"layer {base!r} is the same module as {first!r}; its outputs are {first!r}, '{first}#2', …"
        )
    hint = nearest(name, [*names.values(), *FUNCTIONAL_ACTIVATIONS])
    raise ValueError(
        f"the model has no layer {name!r}.{hint} A second call is 'relu#2', a part of an output 'lstm[0]'."
    )


def part_of(value: Any, wanted: Wanted, known: Iterable[str]) -> Tensor:
    """Return the wanted part of an output; raise a ValueError or TypeError that names the parts."""
    found: Any = value
    for step in wanted.part:
        try:
            # A tensor has no parts: its rows and attributes do not count.
            found = None if isinstance(found, Tensor) else found
            # Keys come before attributes, as Hugging Face's outputs are dictionaries with attributes.
            by_key = isinstance(step, int) or (isinstance(found, Mapping) and step in found)
            found = found[step] if by_key else getattr(found, str(step))
        except (AttributeError, IndexError, KeyError, TypeError):
            hint = nearest(wanted.name, known)  # a misspelt layer looks like a part of its parent
            raise ValueError(
                f"there is no {wanted.name!r}: {_contents(value, wanted.output)}.{hint}"
            ) from None
    if not isinstance(found, Tensor):
        raise TypeError(
            f"output {wanted.name!r} is of type {type(found).__name__}, not a tensor: "
            f"{_contents(value, wanted.output)}"
        )
    return found


def _contents(value: Any, name: str) -> str:
    parts = [repr(f"{name}{path}") for path, _ in named_tensors(value)]
    what = f"{name!r} is of type {type(value).__name__}"
    if isinstance(value, Tensor):
        return f"{what}, which has no parts; name {name!r}"
    if not parts:
        return f"{what} without tensors; name a layer inside or after it"
    return f"{what}; name one of {', '.join(parts)}"


def named_tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested dictionaries, sequences and dataclasses, with their paths.

    Paths are as in `capture`: ``[0]`` in a list or tuple, ``.key`` in a dictionary, dataclass or named tuple.
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
