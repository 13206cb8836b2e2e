"""Names of a model's parameters, and the patterns by which users select them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

# Parts that torch.compile, FSDP and activation checkpointing add to the names of a wrapped model.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def parameter_names(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """Return all names of every parameter, in the order of `model.parameters()`.

    A tied parameter has several names. So has one of a wrapped model (compiled, data-parallel): the name
    without the wrapper comes first.
    """
    found: dict[nn.Parameter, list[str]] = {}
    depth = _wrapper_depth(model)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parts = [part for part in name.split(".") if part not in _WRAPPERS][depth:]
        names = found.setdefault(parameter, [])
        for each in (".".join(parts), name):
            if each not in names:
                names.append(each)
    return found


def _wrapper_depth(model: nn.Module) -> int:
    """Count the data-parallel wrappers around a model: each prefixes its names with "module."."""
    depth = 0
    while True:
        inner = next((model._modules[name] for name in _WRAPPERS if name in model._modules), None)
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
            depth += 1
        if inner is None:
            return depth
        model = inner


def pattern_list(argument: str, patterns: str | Iterable[str]) -> list[str]:
    """Return the patterns of an argument as a list; one string is one pattern.

    Raises:
        TypeError: if a pattern is not a string.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                f'{argument} takes patterns of parameter names, such as "*.bias", not {pattern!r}.'
            )
    return patterns


def matching_parameters(
    argument: str, pattern: str, names: dict[nn.Parameter, list[str]]
) -> list[nn.Parameter]:
    """Return the parameters that a pattern matches, by any of their names.

    Args:
        argument: Name of the argument that holds the pattern, for the message.
        pattern: Pattern in the syntax of `fnmatch`, matched case-sensitively against the whole name.
        names: Names by parameter, as returned by `parameter_names`.

    Raises:
        ValueError: if no parameter matches.
    """
    found = [p for p, own in names.items() if any(fnmatchcase(name, pattern) for name in own)]
    if not found:
        every = [own[0] for own in names.values()]
        near = difflib.get_close_matches(pattern, every, n=3, cutoff=0.3) or every[:3]
        raise ValueError(
            f"{argument}: {pattern!r} matches no parameter. The nearest names:"
            f" {', '.join(map(repr, near))} (patterns are those of fnmatch and match whole names)."
        )
    return found
