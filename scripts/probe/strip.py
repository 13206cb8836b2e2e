"""Command `plasticity strip`: a saved model without this package's optimizer, loadable without the package.

The class of the optimizer is in a pickle, which is edited and not loaded; its settings are next to it in
plain text. The optimizer's state, in groups of actor and critic, becomes the single group that
Stable-Baselines3 itself uses, in the order of the policy's parameters, which is that of its weights.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from plasticity.optim.base_decay import default_weight_decay
from plasticity.optim.settings import DERIVED_KEYS, SETTING_NAMES
from plasticity.scripts.probe.loading import ProbeError, require_file
from plasticity.scripts.probe.pickled import SERIALIZED, Reference, edited, pickle_in, references
from plasticity.scripts.probe.policy import is_policy_file, read_archive, read_member
from plasticity.scripts.run.atomic_files import explained, write_whole

_PREFIXES = {"plasticity.sb3.optimizer": "Policy", "plasticity.optim.regularizers": "Regularized"}
"""Prefixes of class names by module; the name of the base class follows."""

_OWN_KEYWORDS = (*SETTING_NAMES, "actor", "critic", "kernel")
_OWN_GROUP_KEYS = (*SETTING_NAMES, *DERIVED_KEYS, "name", "param_names")
_NO_OPTIMIZERS = ("policy.pth", "pytorch_variables.pth")


@dataclass(frozen=True)
class StripOptions:
    """Write a Stable-Baselines3 model that loads where this package is not installed.

    Its optimizer is replaced by the plain one that it extends (such as torch.optim.Adam), with the same
    settings and moments: actions stay the same, and training can continue after `PPO.load`, without a
    regularizer. All algorithms of Stable-Baselines3 and sb3-contrib are supported. The original file is not
    modified.

    Nothing in the file is unpickled.

    Raises:
        TypeError: if a value has the wrong type.
    """

    model: tyro.conf.Positional[Path]
    """File of the model: model.zip of Stable-Baselines3."""

    out: Path | None = None
    """File to write. None: model_stripped.zip, next to the model."""

    force: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Overwrite an existing file."""


def strip(options: StripOptions) -> Path | None:
    """Write the plain form of a saved model atomically, and print what was written.

    Args:
        options: Options of the command.

    Returns:
        The file written, or None if the model is already plain.

    Raises:
        ProbeError: if the file is not a model, is broken, contains more of this package than an optimizer,
            or the file to write exists.
        RunError: if the file cannot be written.
        OSError: if the model cannot be read.
    """
    file = options.model
    require_file(file)
    if not is_policy_file(file):
        raise ProbeError(f"{file} is not a model of Stable-Baselines3: pass what model.save wrote.")
    out = options.out or file.with_name(f"{file.stem}_stripped.zip")
    if out.exists() and not options.force:
        raise ProbeError(f"{out} already exists: pass another --out, or --force to overwrite it.")
    data, members = read_archive(file)
    optimizer = _strip_data(data, file)
    regularizers = _strip_states(members, file)
    _require_plain(data, file)
    if optimizer is None and regularizers is None:
        print(f"{file} is already plain: it loads without plasticity. Nothing was written.")
        return None
    with explained(out):
        write_whole(out, _archive({"data": json.dumps(data, indent=4).encode(), **members}))
    print(f"{out} loads without plasticity: its optimizer is {optimizer or 'plain'}.")
    if regularizers:
        print(f"Further training is without {' and '.join(regularizers)}.")
    return out


# ---- keyword arguments of the policy ----------------------------------------------------------------


def _strip_data(data: dict[str, Any], file: Path) -> str | None:
    """Put the plain optimizer into the policy's keyword arguments.

    Returns:
        The name of the optimizer, or None if nothing was changed.
    """
    entry = data.get("policy_kwargs")
    ours = _ours(entry, file)
    bases = {_base(each) for each in ours}
    if not ours or len(bases) > 1 or None in bases:
        return None  # plain, or not strippable, which is reported later
    (base,) = bases
    pickled = pickle_in(entry)
    assert isinstance(entry, dict)
    assert base is not None
    assert pickled is not None
    kwargs = _base_kwargs(entry.get("optimizer_kwargs", {}), base, file)
    try:
        pickled = edited(pickled, _base, {"optimizer_kwargs": kwargs})
    except ValueError as error:
        raise ProbeError(
            f"{file} is broken: its policy_kwargs are not a pickle ({error}). Save the model again."
        ) from error
    entry[SERIALIZED] = base64.b64encode(pickled).decode()
    entry["optimizer_class"] = f"<class '{'.'.join(base)}'>"
    entry["optimizer_kwargs"] = kwargs
    return ".".join(base)


def _ours(entry: object, file: Path) -> list[Reference]:
    """Return the references to this package in an entry of the file."""
    try:
        pickled = pickle_in(entry)
        found = [] if pickled is None else list(references(pickled))
    except ValueError as error:
        raise ProbeError(
            f"{file} is broken: a pickle in it is not intact ({error}). Save the model again."
        ) from error
    return [each for each in found if each.module.partition(".")[0] == "plasticity"]


def _base(reference: Reference) -> tuple[str, str] | None:
    """Return module and name of the optimizer that one of our classes extends; None for other references."""
    prefix = _PREFIXES.get(reference.module)
    if prefix is None or not reference.name.startswith(prefix):
        return None
    path = reference.name.removeprefix(prefix)
    if path.startswith(":"):
        module, _, name = path[1:].replace("/", ".").partition(":")
        return module, name
    found = getattr(torch.optim, path, None)
    return (found.__module__, found.__qualname__) if isinstance(found, type) else None


def _base_kwargs(given: object, base: tuple[str, str], file: Path) -> dict[str, Any]:
    """Return the keyword arguments of the plain optimizer."""
    if not isinstance(given, dict):
        raise ProbeError(
            f"{file} does not have its optimizer_kwargs in plain text ({str(given)[:100]}): load it, replace"
            " the values that are not plain numbers, and save it again."
        )
    # JSON has no tuples, and torch's optimizers do not take lists.
    kwargs = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name not in _OWN_KEYWORDS
    }
    if base[0].startswith("torch."):
        optimizer_class = getattr(importlib.import_module(base[0]), base[1])
        if default_weight_decay(optimizer_class) != 0:
            kwargs["weight_decay"] = 0.0  # as in our optimizer
    return kwargs


def _require_plain(data: Mapping[str, Any], file: Path) -> None:
    for name, entry in data.items():
        left = [f"{each.module}.{each.name}" for each in _ours(entry, file)]
        if left:
            raise ProbeError(_MORE.format(file, name, ", ".join(left)))


_MORE = (
    "{} cannot be loaded without plasticity: its {} contains {}. An optimizer can be replaced by a plain one,"
    " other parts cannot. Rebuild the model without them."
)


# ---- the optimizer's state --------------------------------------------------------------------------


def _strip_states(members: dict[str, bytes], file: Path) -> list[str] | None:
    """Convert the states of the optimizers to the plain form.

    Returns:
        The regularizers that they had, or None if they are already plain.
    """
    names = list(read_member("policy.pth", members["policy.pth"], file))
    regularizers: list[str] | None = None
    for member, content in members.items():
        if not member.endswith(".pth") or member in _NO_OPTIMIZERS:
            continue
        state = read_member(member, content, file)
        groups = state.get("param_groups", []) if isinstance(state, Mapping) else []
        if not any("anchor_position" in group for group in groups):
            continue
        active = [each for each in groups if each["regularizer"] != "none" and each["strength"]]
        found = [f"{each['regularizer']} of strength {each['strength']:g}" for each in active]
        regularizers = list(dict.fromkeys([*(regularizers or ()), *found]))
        written = io.BytesIO()
        torch.save(_plain_state(state, names, f"{member} in {file}"), written)
        members[member] = written.getvalue()
    return regularizers


def _plain_state(state: Mapping[str, Any], weights: Sequence[str], what: str) -> dict[str, Any]:
    """Return the state of a plain optimizer with one group.

    Args:
        state: State of one of our optimizers.
        weights: Names of the policy's weights, in the order of its parameters.
        what: Name of the state, for messages.
    """
    groups = state["param_groups"]
    ids = [each for group in groups for each in group["params"]]
    names = [each for group in groups for each in group.get("param_names", ())]
    if names:
        rank = {name: index for index, name in enumerate(weights)}
        unknown = [name for name in names if name not in rank]
        if unknown or len(names) != len(ids):
            raise ProbeError(
                f"{what} does not fit the policy: it has no {unknown[:1] or 'names'}. Save the model again."
            )
        ids = [ids[index] for index in sorted(range(len(ids)), key=lambda i: rank[names[i]])]
    elif len(groups) > 1:
        raise ProbeError(
            f"{what} has several groups, but no names to order them by. Save the model again."
        )
    settings = dict(_settings(groups, what))
    own = {
        new: {key: value for key, value in state["state"][old].items() if key != "anchor"}
        for new, old in enumerate(ids)
        if old in state["state"]
    }
    return {"state": own, "param_groups": [{**settings, "params": list(range(len(ids)))}]}


def _settings(groups: Sequence[Mapping[str, Any]], what: str) -> Iterator[tuple[str, Any]]:
    """Yield the settings of the base optimizer's group, which must be the same in each of ours."""
    for name, value in groups[0].items():
        if name in (*_OWN_GROUP_KEYS, "params"):
            continue
        if name == "weight_decay":
            yield name, 0.0
            continue
        others = [group[name] for group in groups[1:]]
        if any(other != value for other in others):
            raise ProbeError(
                f"{what} has groups with {name} {', '.join(map(str, [value, *others]))}, but a plain"
                " optimizer has one group: make them equal, and save the model again."
            )
        yield name, value


def _archive(members: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()
