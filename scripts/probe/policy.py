"""Policies from the zip files of Stable-Baselines3, without unpickling wherever possible.

Such a file contains plain values, pickles, and the weights. Next to each pickle, Stable-Baselines3 writes a
description in plain text: names of classes, shapes of spaces, arguments of the policy. That is enough to
rebuild the policies of Stable-Baselines3 and sb3-contrib; the weights are then loaded by torch's restricted
reader. Only what the text does not describe is unpickled, and only from a trusted file.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import io
import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from plasticity.scripts.probe.loading import (
    TRUST,
    ProbeError,
    in_short,
    not_there,
    read_weights,
    require_modest,
    seeded,
)
from plasticity.scripts.probe.pickled import SERIALIZED, number_kinds, pickle_in, sole_class

_KNOWN_PACKAGES = ("stable_baselines3.", "sb3_contrib.")
_NOT_NEEDED = ("optimizer_class", "optimizer_kwargs")  # of a policy that is not trained

_KEEP_ORIGINAL_IF_NORMALIZED = ("gae_lambda", "n_delta")
"""Entries of the algorithms that keep an original observation only in a VecNormalize: on-policy and ARS."""


def is_policy_file(file: Path) -> bool:
    """Return whether a file is a model of Stable-Baselines3: a zip archive with the weights of a policy."""
    try:
        with zipfile.ZipFile(file) as archive:
            return "policy.pth" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def read_archive(
    file: Path, names: Collection[str] | None = None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a file of Stable-Baselines3, without unpickling anything.

    Args:
        file: File written by `model.save`.
        names: Members to read in addition to the data. None: all.

    Returns:
        The data, with pickles as text, and the other members by their names.

    Raises:
        ProbeError: if the file is broken.
        OSError: if the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            require_modest(stream, str(file))
            with zipfile.ZipFile(stream) as archive:
                data = json.loads(archive.read("data"))
                chosen = archive.namelist() if names is None else names
                members = {name: archive.read(name) for name in chosen if name != "data"}
    except ProbeError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        ValueError,
        RuntimeError,
    ) as error:
        raise ProbeError(
            f"{file} is not an intact model of Stable-Baselines3: {error}. Save or copy it again."
        ) from error
    if not isinstance(data, dict):
        raise ProbeError(
            f"{file} is not an intact model of Stable-Baselines3: its data is not a JSON object. Save it"
            " again."
        )
    return data, members


def read_member(name: str, content: bytes, file: Path) -> Any:
    """Read the tensors in a member of a model's file.

    Args:
        name: Name of the member, such as "policy.pth".
        content: Content of the member.
        file: File of the model, for messages.

    Raises:
        ProbeError: if the member is broken, or contains pickles.
    """
    remedy = "Stable-Baselines3 writes no pickle there: do not load the file."
    return read_weights(io.BytesIO(content), f"{name} in {file}", remedy=remedy)


class SavedPolicy:
    """Policy in a saved model, of any algorithm of Stable-Baselines3 or sb3-contrib.

    Args:
        file: File written by `model.save`.
        trust: Whether pickles in the file may be loaded where the plain text is not sufficient.

    Raises:
        ProbeError: if the file is broken or not such a model; with the remedy.
        OSError: if the file cannot be read.
    """

    def __init__(self, file: Path, *, trust: bool = False) -> None:
        self.file = file
        self._trust = trust
        self._data, members = read_archive(file, ("policy.pth",))
        self._weights = read_member("policy.pth", members["policy.pth"], file)

    @property
    def was_normalized(self) -> bool | None:
        """Whether the model was trained in a `VecNormalize`, as far as its file shows.

        True: in one that normalises observations, rewards or both. False: its observations were not
        normalised. None: the file does not show it.
        """
        if "_last_original_obs" not in self._data:
            return None
        if self._data["_last_original_obs"] is None:
            return False
        if any(name in self._data for name in _KEEP_ORIGINAL_IF_NORMALIZED):
            return True
        # Off-policy algorithms always keep it. Without a VecNormalize it is the observation before the
        # last one. With one it is the last one, identical to it if only rewards are normalised.
        last, original = self._pickle("_last_obs"), self._pickle("_last_original_obs")
        if last is None or original is None:
            return None
        try:
            was_float32 = "f4" in number_kinds(last)  # like all that a VecNormalize normalises
        except ValueError:
            return None
        return None if was_float32 and last != original else False

    @property
    def policy_class(self) -> type[BasePolicy]:
        """Class of the policy: one of Stable-Baselines3 or sb3-contrib, or any if the file is trusted."""
        pickled = self._pickle("policy_class")
        named = None if pickled is None else sole_class(pickled)
        if named is not None and named[0].startswith(_KNOWN_PACKAGES):
            found = _known(*named)
        else:
            shown = ":".join(named) if named else "a custom class"
            found = self._unpickled("policy_class", f"its policy is {shown}")
        if not (isinstance(found, type) and issubclass(found, BasePolicy)):
            raise ProbeError(
                f"{self.file} is broken: its policy class is {found!r}. Save the model again."
            )
        return found

    def space(self, name: str) -> spaces.Space[Any]:
        """Return the space named "observation_space" or "action_space".

        Bounds are not restored: they are not needed for measurements on observations from a file.
        """
        entry = self._data.get(name)
        found = _plain_space(entry) if isinstance(entry, dict) else None
        if found is None:
            found = self._unpickled(
                name, f"its {name} has no description in plain text (--env would provide it)"
            )
        if not isinstance(found, spaces.Space):
            raise ProbeError(
                f"{self.file} is broken: its {name} is {found!r}. Save the model again."
            )
        return found

    def build(
        self,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
    ) -> tuple[BasePolicy, BasePolicy]:
        """Build the policy twice.

        Args:
            observation_space: Observation space of the environment. None: that of the file.
            action_space: Action space of the environment. None: that of the file.

        Returns:
            The policy with the saved weights, and a freshly initialised one.

        Raises:
            ProbeError: if the policy cannot be built, or the weights do not fit it.
        """
        policy_class = self.policy_class
        arguments = self._arguments(policy_class)
        given = (
            self.space("observation_space") if observation_space is None else observation_space,
            self.space("action_space") if action_space is None else action_space,
        )
        fit = (
            f" with observations {given[0]} and actions {given[1]}: is this the environment that it was"
            " trained in, with the same wrappers?"
        )
        try:
            fresh, policy = (seeded(lambda: policy_class(*given, **arguments)) for _ in range(2))
        except Exception as error:
            raise ProbeError(
                f"{policy_class.__name__} cannot be built as {self.file} describes it"
                f"{':' if action_space is None else fit}"
                f" {in_short(error)}"
            ) from error
        try:
            policy.load_state_dict(self._weights)
        except RuntimeError as error:
            raise ProbeError(
                f"The weights in {self.file} do not fit {policy_class.__name__}{fit} {in_short(error)}"
            ) from error
        return policy, fresh

    def _arguments(self, policy_class: type[BasePolicy]) -> dict[str, Any]:
        """Return the arguments that the algorithm would pass to the class of the policy."""
        arguments = self._policy_kwargs()
        parameters = inspect.signature(policy_class).parameters.values()
        names = {each.name for each in parameters}
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        own = {"lr_schedule": _no_learning, "use_sde": bool(self._data.get("use_sde", False))}
        for name, value in own.items():
            if name in names or takes_all:
                arguments.setdefault(name, value)
        return arguments

    def _policy_kwargs(self) -> dict[str, Any]:
        entry = self._data.get("policy_kwargs") or {}
        if not isinstance(entry, dict):
            raise ProbeError(
                f"{self.file} is broken: its policy_kwargs are {entry!r}. Save the model again."
            )
        kept = {
            name: value
            for name, value in entry.items()
            if name not in (":type:", SERIALIZED, *_NOT_NEEDED)
        }
        if SERIALIZED not in entry:
            return kept
        plain = {name: _plain_value(value) for name, value in kept.items()}
        unknown = [name for name, value in plain.items() if value is _UNKNOWN]
        if not unknown:
            return plain
        whole = self._unpickled(
            "policy_kwargs", f"its {unknown[0]} is {str(kept[unknown[0]])[:100]!r}"
        )
        return {name: value for name, value in whole.items() if name not in _NOT_NEEDED}

    def _pickle(self, name: str) -> bytes | None:
        """Return the pickle of an entry, if it has one, for inspection only."""
        try:
            return pickle_in(self._data.get(name))
        except ValueError:  # not base64
            return None

    def _unpickled(self, name: str, reason: str) -> Any:
        entry = self._data.get(name)
        if not (isinstance(entry, dict) and isinstance(entry.get(SERIALIZED), str)):
            raise ProbeError(f"{self.file} is broken: it has no {name}. Save the model again.")
        if not self._trust:
            raise ProbeError(
                f"{self.file} cannot be read without unpickling: {reason}. A pickle runs its author's"
                f" code: pass {TRUST} if you trust the file."
            )
        try:
            return pickle.loads(base64.b64decode(entry[SERIALIZED]))
        except Exception as error:
            raise ProbeError(not_there(f"{name} in {self.file}", error)) from error


def _no_learning(_progress: float) -> float:
    """Return 0, the learning rate of an optimizer that never steps."""
    return 0.0


class _Unknown:
    """Type of a value that plain text does not describe."""


_UNKNOWN = _Unknown()


def _plain_value(value: object) -> object:
    """Return an argument of a policy from its plain text: a number, list or known class, or `_UNKNOWN`."""
    if not isinstance(value, str):
        return value
    # No policy takes a string: it is the repr of an object that JSON cannot represent.
    match = re.fullmatch(r"<class '([\w.]+)\.(\w+)'>", value)
    if match is None:
        return _UNKNOWN
    module, name = match.groups()
    if module.startswith("torch.nn."):
        found = getattr(nn, name, None)
        return found if isinstance(found, type) and issubclass(found, nn.Module) else _UNKNOWN
    if not module.startswith(_KNOWN_PACKAGES):
        return _UNKNOWN
    found = _known(module, name)
    return (
        found if isinstance(found, type) and issubclass(found, BaseFeaturesExtractor) else _UNKNOWN
    )


def _known(module: str, name: str) -> Any:
    """Import a class of Stable-Baselines3 or sb3-contrib."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ProbeError(not_there("The model", error)) from error


def _plain_space(entry: Mapping[str, Any]) -> spaces.Space[Any] | None:
    """Return a space from the text next to its pickle, or None if that does not describe it."""
    make = _SPACES.get(str(entry.get(":type:")).rpartition(".")[2].rstrip("'>"))
    try:
        return None if make is None else make(entry)
    except (KeyError, TypeError, ValueError, AssertionError):  # another form of description
        return None


def _plain_box(entry: Mapping[str, Any]) -> spaces.Box:
    dtype = np.dtype(str(entry["dtype"]))
    # Stable-Baselines3 recognises images by their bounds. Other bounds do not affect any measure.
    low, high = (0, 255) if dtype == np.uint8 else (-1, 1)
    return spaces.Box(low, high, tuple(entry["_shape"]), dtype.type)


_SPACES: dict[str, Callable[[Mapping[str, Any]], spaces.Space[Any]]] = {
    "Box": _plain_box,
    "Discrete": lambda entry: spaces.Discrete(int(entry["n"])),
    "MultiBinary": lambda entry: spaces.MultiBinary(int(entry["n"])),
    "MultiDiscrete": lambda entry: spaces.MultiDiscrete(
        [int(count) for count in str(entry["nvec"]).strip("[]").split()]
    ),
}
