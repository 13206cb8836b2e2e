"""Networks from checkpoints: search for the weights, and match them to the names of the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.checks import nearest
from plasticity.scripts.probe.loading import (
    ProbeError,
    in_short,
    is_safetensors,
    read_safetensors,
    read_weights,
    require_file,
    seeded,
    torchscript,
)

_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that torch.compile, data parallelism and activation checkpointing insert."""


def load_module(
    file: Path,
    factory: Callable[[], nn.Module] | None,
    *,
    state_key: str | None = None,
    prefix: str | None = None,
    trust: bool = False,
) -> tuple[nn.Module, nn.Module | None]:
    """Load a checkpoint of `torch.save`, of Lightning, or of safetensors.

    Args:
        file: File of a state dictionary, of a dictionary that contains one, or of a whole module (a pickle).
        factory: Function that creates the network, freshly initialised. None: the file contains the module.
        state_key: Keys of the state dictionary in the file, joined by dots. None: search for it.
        prefix: Prefix of the network's names in it, such as "model."; other names are ignored. None: search
            for it.
        trust: Whether pickles in the file may be loaded.

    Returns:
        The network as saved, and a freshly initialised one (None without a factory).

    Raises:
        ProbeError: if the file is not a checkpoint, is truncated, contains pickles and is not trusted,
            needs a missing class or package, does not fit the network, or fits it in several ways.
        OSError: if the file cannot be read.
    """
    content = _read(file, trust=trust)
    if factory is None:
        if isinstance(content, nn.Module):
            return content, None
        if not any(_has_tensors(each) for _, each in _mappings(content)):
            raise ProbeError(_without_weights(file, content))
        raise ProbeError(
            f"{file} contains weights but no network: pass --module PACKAGE.MODULE:FUNCTION, which"
            " creates the network of these weights."
        )
    model, fresh = seeded(factory), seeded(factory)
    content = _at_key(content, state_key, file)
    state = _state_dict(content, _Names.of(model), prefix, file)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ProbeError(
            f"The weights in {file} do not fit the {type(model).__name__} that --module creates: pass the"
            f" --module and --module-kwargs of the training. {in_short(error)}"
        ) from error
    return model, fresh


def largest_state_dict(file: Path) -> Mapping[str, Any]:
    """Return the largest dictionary of tensors in a file of `torch.save` or of safetensors, on the CPU.

    Raises:
        ProbeError: if there is no such file, it is not a checkpoint or truncated, or contains pickles or no
            weights.
        OSError: if the file cannot be read.
    """
    require_file(file)
    content = _read(file, trust=False, remedy="Save only model.state_dict().")
    found = [each for _, each in _mappings(content) if _has_tensors(each)]
    if not found:
        raise ProbeError(_without_weights(file, content))
    return max(found, key=len)


def _read(file: Path, *, trust: bool, **messages: str) -> Any:
    if is_safetensors(file):
        return read_safetensors(file)
    with file.open("rb") as stream:
        content = read_weights(stream, str(file), trust=trust, **messages)
    if isinstance(content, torch.jit.ScriptModule):
        raise ProbeError(torchscript(str(file)))
    return content


def _at_key(content: object, key: str | None, file: Path) -> object:
    for part in key.split(".") if key else ():
        entries = dict(_entries(content))
        if part not in entries:
            raise ProbeError(
                f"--state-key {key}: {file} has no {part!r} at this level.{nearest(part, list(entries))}"
            )
        content = entries[part]
    return content


# ---- names ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """Names in a network's state dictionary."""

    all: frozenset[str]
    tied: Mapping[str, tuple[str, ...]]
    """All names of a tensor, by each name of a tensor that has several."""

    @classmethod
    def of(cls, model: nn.Module) -> _Names:
        names = frozenset(model.state_dict())
        by_tensor: dict[int, list[str]] = {}
        for tensors in (model.named_parameters, model.named_buffers):
            for name, tensor in tensors(remove_duplicate=False):
                if name in names:
                    by_tensor.setdefault(id(tensor), []).append(name)
        several = [tuple(each) for each in by_tensor.values() if len(each) > 1]
        return cls(names, {name: each for each in several for name in each})

    def completed(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the state with all names of tied tensors, of which safetensors files contain one."""
        held = {
            name: next((state[other] for other in others if other in state), None)
            for name, others in self.tied.items()
        }
        return {**{name: each for name, each in held.items() if each is not None}, **state}

    def exactly(self, state: Mapping[str, Any], prefix: str) -> Mapping[str, Any] | None:
        """Return the part of a state below a prefix, if its names are exactly those of the network."""
        cut = self.completed(_cut(state, prefix))
        return cut if set(cut) == self.all else None

    def prefixes(self, state: Mapping[str, Any]) -> Counter[str]:
        """Count the prefixes of the network's names in a state."""
        return Counter(before for key in state for before, name in _splits(key) if name in self.all)


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """Yield a name split before each of its parts: ("", "a.b"), ("a.", "b")."""
    parts = key.split(".")
    for index in range(len(parts)):
        yield "".join(f"{part}." for part in parts[:index]), ".".join(parts[index:])


def _state_dict(
    content: object, names: _Names, prefix: str | None, file: Path
) -> Mapping[str, Any]:
    """Return the state dictionary in a checkpoint, with the names of the network."""
    if prefix and not prefix.endswith("."):
        prefix += "."
    found = list(_mappings(content))
    fitting = [
        (where, prefix, cut)
        for where, each in found
        if prefix is not None and (cut := names.exactly(each, prefix)) is not None
    ]
    fitting = fitting or [
        (where, (prefix or "") + beginning, state)
        for where, each in found
        for beginning, state in _fitting(_cut(each, prefix or ""), names)
    ]
    if len(fitting) == 1:
        return fitting[0][2]
    if fitting:
        raise ProbeError(_several(file, [(where, beginning) for where, beginning, _ in fitting]))
    # The dictionary of a network rarely has other entries: prefer those with tensors alone.
    sets = {where: each for where, each in found if _has_tensors(each, alone=True)}
    sets = sets or {where: each for where, each in found if _has_tensors(each)}
    if not sets:
        raise ProbeError(_without_weights(file, content))
    if prefix is not None:
        sets = {where: cut for where, each in sets.items() if (cut := _cut(each, prefix))}
        if not sets:
            firsts = {
                before for _, each in found for key in each for before, _ in _splits(str(key))
            }
            raise ProbeError(
                f"--prefix {prefix}: {file} has no weights with this prefix."
                f"{nearest(prefix, sorted(firsts - {''}))}"
            )
    sets = {where: each for where, each in sets.items() if names.prefixes(each)} or sets
    if len(sets) > 1:
        raise ProbeError(
            f"{file} contains {len(sets)} sets of weights, none with the names of the network: choose one"
            f" with --state-key. Keys: {_listed(sets)}."
        )
    # Loading the only set reports which of its names do not fit.
    (state,) = sets.values()
    most_common = names.prefixes(state).most_common(1)
    return _cut(state, most_common[0][0]) if most_common else state


def _fitting(state: Mapping[str, Any], names: _Names) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the parts of a state that have the names of the network, each after its prefix."""
    is_found = False
    for beginning in names.prefixes(state):
        cut = names.exactly(state, beginning)
        if cut is not None:
            is_found = True
            yield beginning, cut
    plain = _by_plain_names(names.all)
    if is_found or plain is None:
        return
    # Submodules were wrapped, in the network or when it was saved; only their names show it.
    unwrapped = _by_plain_names(state)
    if unwrapped is None:
        return
    bare = _Names(frozenset(plain), {})
    for beginning in bare.prefixes(unwrapped):
        cut = _cut(unwrapped, beginning)
        if set(cut) == bare.all:
            yield beginning, {plain[name]: state[old] for name, old in cut.items()}


def _by_plain_names(names: Iterable[str]) -> dict[str, str] | None:
    """Return names by their form without wrappers, or None if these forms are not unique."""
    names = list(names)
    plain = {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): name for name in names
    }
    return plain if len(plain) == len(names) else None


def _cut(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)
    }


def _several(file: Path, fitting: list[tuple[str, str]]) -> str:
    keys, beginnings = ({each[index] for each in fitting} for index in (0, 1))
    options = ["--state-key"] * (len(keys) > 1) + ["--prefix"] * (len(beginnings) > 1)
    shown = f"Keys: {_listed(where for where, _ in fitting)}"
    if len(beginnings) > 1:
        prefixes = [
            f"{beginning!r} in {where or 'the file itself'}" for where, beginning in fitting
        ]
        shown = f"Prefixes: {_listed(prefixes)}"
    return (
        f"{file} contains {len(fitting)} sets of weights with the names of the network: choose one with"
        f" {' and '.join(options)}. {shown}."
    )


# ---- content of a checkpoint ------------------------------------------------------------------------


def _entries(content: object) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a dictionary or list, with their keys as strings."""
    if isinstance(content, Mapping):
        yield from ((str(name), each) for name, each in content.items())
    elif isinstance(content, (list, tuple)):
        yield from ((str(index), each) for index, each in enumerate(content))


def _mappings(content: object, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield all non-empty dictionaries, including nested ones, by their keys joined by dots."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if isinstance(content, Mapping) and content:
        yield where, {str(name): each for name, each in content.items()}
    for name, each in _entries(content):
        yield from _mappings(each, f"{where}.{name}" if where else name)


def _has_tensors(mapping: Mapping[str, Any], *, alone: bool = False) -> bool:
    return (all if alone else any)(isinstance(each, Tensor) for each in mapping.values())


def _listed(keys: Iterable[str]) -> str:
    names = [key or "(the file itself)" for key in keys]
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


def _without_weights(file: Path, content: object) -> str:
    keys = f" with the keys {_listed(content)}" if isinstance(content, Mapping) and content else ""
    return (
        f"{file} contains no weights: it is a {type(content).__name__}{keys}, without a dictionary of tensors"
        " in it. Save model.state_dict()."
    )
