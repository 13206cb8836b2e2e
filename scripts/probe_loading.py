"""Networks from torch checkpoints and from the user's code, and what is done about pickles.

A pickle runs whatever its author wrote into it, and a checkpoint may be one. Without the user's say-so only
torch's restricted reader is used, which gives tensors and plain values.
"""

from __future__ import annotations

import importlib
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.settings import nearest

TRUST = "--trust-pickle"
"""The option by which the user says so."""


class ProbeError(ValueError):
    """What the user gave cannot be probed; the message says why, and the remedy."""


def load_module(
    file: Path,
    factory: Callable[[], nn.Module] | None,
    *,
    state_key: str | None = None,
    trust: bool = False,
) -> tuple[nn.Module, nn.Module | None]:
    """Load a checkpoint made by `torch.save`.

    Args:
        file: A state dictionary, a dictionary with one in it, or a whole module (which is a pickle).
        factory: Makes the network, freshly initialised. None: the file holds a whole module.
        state_key: Where the state dictionary is: keys with dots between. None: it is looked for.
        trust: Whether pickles in it may be loaded.

    Returns:
        The network as saved, and a freshly initialised one (None without a factory).

    Raises:
        ProbeError: if the file is no checkpoint, is truncated, holds pickles and is not trusted, needs a
            class that is not there, or does not fit the network.
        OSError: if the file cannot be read.
    """
    with file.open("rb") as stream:
        content = read_weights(stream, str(file), trust=trust)
    if factory is None:
        if not isinstance(content, nn.Module):
            raise ProbeError(
                f"{file} holds weights and no network: give --module PACKAGE.MODULE:FUNCTION, whose"
                " result has these weights."
            )
        return content, None
    model, fresh = seeded(factory), seeded(factory)
    state = _state_dict(content, state_key, set(model.state_dict()), file)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ProbeError(
            f"The weights in {file} do not fit the {type(model).__name__} that --module makes: give the"
            f" --module and --module-kwargs of the training. {in_short(error)}"
        ) from error
    return model, fresh


def read_weights(
    stream: Any,
    what: str,
    *,
    trust: bool = False,
    remedy: str = f"Give {TRUST} if you trust the file, or save model.state_dict() alone.",
) -> Any:
    """Read what `torch.save` wrote, onto the CPU.

    Args:
        stream: Opened file.
        what: Its name, for messages.
        trust: Whether pickles in it may be loaded.
        remedy: What to do about pickles in it, for messages.

    Raises:
        ProbeError: as `load_module`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on formats: what the file is, is told below
            return torch.load(stream, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises errors of many kinds for a broken file
        called = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
        if called and not trust:
            raise ProbeError(
                f"{what} holds a pickle that calls {', '.join(called)}. A pickle runs its author's code."
                f" {remedy}"
            ) from error
        if isinstance(error, (ImportError, AttributeError)):
            raise ProbeError(not_there(what, error)) from error
        # The reader's advice, to switch its restriction off, is none for a file of another kind.
        why = "" if isinstance(error, pickle.UnpicklingError) else f" ({in_short(error)})"
        raise ProbeError(
            f"{what} is no whole torch checkpoint, nor a model of Stable-Baselines3{why}: it is of"
            " another kind, or was cut off."
        ) from error


def _state_dict(
    content: object, key: str | None, wanted: set[str], file: Path
) -> Mapping[str, Tensor]:
    """The state dictionary in a checkpoint, under the names of the network."""
    for part in key.split(".") if key else ():
        if not (isinstance(content, Mapping) and part in content):
            keys = [str(each) for each in content] if isinstance(content, Mapping) else []
            raise ProbeError(
                f"--state-key {key}: {file} has no {part!r} there.{nearest(part, keys)}"
            )
        content = content[part]
    states = [_without_prefixes(each) for each in _states(content)]
    for state in states:
        if set(state) == wanted:
            return state
    if len(states) == 1:
        return states[0]  # loading it tells which names do not fit
    keys = [str(each) for each in content] if isinstance(content, Mapping) else []
    raise ProbeError(
        f"{file} holds {len(states)} sets of weights and none with the names of the network: name one with"
        f" --state-key. Keys: {', '.join(keys[:20])}."
    )


def _states(content: object) -> Iterator[Mapping[str, Tensor]]:
    """All state dictionaries in nested dictionaries."""
    if isinstance(content, nn.Module):
        yield content.state_dict()
    elif isinstance(content, Mapping) and content:
        if all(isinstance(each, Tensor) for each in content.values()):
            yield {str(name): tensor for name, tensor in content.items()}
        else:
            for each in content.values():
                yield from _states(each)


def _without_prefixes(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """As before `torch.compile` and data parallelism put themselves around the network."""
    for prefix in ("_orig_mod.", "module.") * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def require_finite(model: nn.Module, file: Path) -> None:
    """Refuse a network that has diverged.

    Raises:
        ProbeError: if a weight is NaN or infinite, naming the first.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ProbeError(
                f"{file} has weights that are NaN or infinite, the first in {name}: its training diverged,"
                " and there is no plasticity to measure."
            )


# ---- the user's code --------------------------------------------------------------------------------


def import_module(name: str, option: str) -> Any:
    """Import a module that the user named; from the working folder too.

    Raises:
        ProbeError: if there is none, naming the option.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ProbeError(
            f"{option} {name}: {error}. Install it, or run from the folder that it is in."
        ) from error


def module_factory(path: str, keywords: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """The function or class that makes a network.

    Args:
        path: ``package.module:function``.
        keywords: Of each call.

    Raises:
        ProbeError: if there is none, or the path has another form. The function that is returned raises it
            too, if what it makes is no module.
    """
    name, _, attribute = path.partition(":")
    if not name or not attribute:
        raise ProbeError(
            f"--module {path}: give PACKAGE.MODULE:FUNCTION, such as my.networks:make."
        )
    module = import_module(name, "--module")
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [each for each in vars(module) if not each.startswith("_")]
        raise ProbeError(
            f"--module {path}: {name} has no function or class {attribute!r}."
            f"{nearest(attribute, public)}"
        )

    def make() -> nn.Module:
        try:
            made = found(**keywords)
        except TypeError as error:
            raise ProbeError(f"--module {path}: {error}. Arguments: --module-kwargs.") from error
        if not isinstance(made, nn.Module):
            raise ProbeError(f"--module {path} makes a {type(made).__name__}, no torch.nn.Module.")
        return made

    return make


def seeded(make: Callable[[], Any]) -> Any:
    """Make a network whose initial weights are the same at every call of the program."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


# ---- what went wrong --------------------------------------------------------------------------------


def not_there(what: str, error: Exception) -> str:
    """Message on a file that needs a class which cannot be imported."""
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0].replace("_", "-")
        return (
            f"{what} needs the module {error.name}, which is not there: install {package}, or run from"
            " the folder that it is in."
        )
    return (
        f"{what} needs what is not there ({in_short(error)}): it was saved with another version of a"
        " package, or of your code."
    )


def in_short(error: Exception) -> str:
    """What torch and others say in many lines, in one."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:300] + ' …'}"
