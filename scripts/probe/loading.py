"""Weights from files and networks from the user's code, and what is done about pickles.

A pickle runs whatever its author wrote into it, and a checkpoint may be one. Without the user's say-so only
torch's restricted reader is used, which gives tensors and plain values.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from plasticity.checks import nearest

TRUST = "--trust-pickle"
"""The option by which the user says so."""

UNPACKED_BYTES = 2**27
"""Archives that unpack to no more are not asked how much smaller they are."""

UNPACKED_RATIO = 50
"""Larger ones may unpack to this many times their size. Weights shrink little when they are packed."""


class ProbeError(ValueError):
    """What the user gave cannot be probed or stripped; the message says why, and the remedy."""


def require_file(file: Path) -> None:
    """Refuse a path that is no file.

    Raises:
        ProbeError: if there is nothing, or a folder; with the file that may be meant.
    """
    if not file.exists():
        zipped = file.with_name(f"{file.name}.zip")
        hint = f" There is {zipped}." if zipped.exists() else ""
        raise ProbeError(f"There is no file {file}.{hint}")
    if file.is_dir():
        raise ProbeError(f"{file} is a folder: give the file of a model.")


def require_modest(stream: IO[bytes], what: str) -> None:
    """Refuse an archive that would fill the memory: a small file can unpack to any size.

    Args:
        stream: Opened file, which is left at its start. No archive: nothing is refused.
        what: Its name, for messages.

    Raises:
        ProbeError: if its members are together more than `UNPACKED_BYTES` and `UNPACKED_RATIO` times the
            file. No reader unpacks more than the sizes that stand in the archive.
    """
    packed = stream.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(stream) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        return  # the reader of the file tells what it is
    finally:
        stream.seek(0)
    if unpacked > max(UNPACKED_BYTES, UNPACKED_RATIO * packed):
        raise ProbeError(
            f"{what} has {packed} bytes and would unpack to {unpacked}: no model or batch is so empty. If"
            " you trust it, pack it again without compression."
        )


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
    require_modest(stream, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on formats: what the file is, is told below
            return torch.load(stream, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises errors of many kinds for a broken file
        if "TorchScript" in str(error):
            raise ProbeError(torchscript(what)) from error
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


def is_safetensors(file: Path) -> bool:
    """Whether a file has the form of safetensors: by its name, or by how it begins."""
    if file.suffix == ".safetensors":
        return True
    with file.open("rb") as stream:
        begun = stream.read(9)
    # The length of a header, and the header: JSON.
    length = int.from_bytes(begun[:8], "little")
    return begun[8:] == b"{" and length < file.stat().st_size


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read a file of safetensors, which holds tensors and nothing else, onto the CPU.

    Raises:
        ProbeError: if the file is broken, or the package is not there.
        OSError: if it cannot be read.
    """
    try:
        from safetensors import SafetensorError  # noqa: PLC0415  (optional)
        from safetensors.torch import load_file  # noqa: PLC0415
    except ImportError as error:
        raise ProbeError(
            f"{file} is read by the package safetensors, which is not there: pip install safetensors."
        ) from error
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ProbeError(f"{file} is no whole file of safetensors: {error}.") from error


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
    if not name or name.startswith("."):
        raise ProbeError(f"{option} {name!r}: give the whole name of a module, such as my.tasks.")
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


def torchscript(what: str) -> str:
    """Message on an archive of TorchScript."""
    return (
        f"{what} is a TorchScript archive, whose activations cannot be seen: save model.state_dict() of"
        " the Python module that it was made from, and give that module's --module."
    )


def in_short(error: Exception) -> str:
    """What torch and others say in many lines, in one."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:300] + ' …'}"
