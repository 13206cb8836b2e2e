"""Loading of weights from files and of networks from the user's code, and the treatment of pickles.

Loading a pickle runs whatever its author wrote into it, and a checkpoint may be one. Unless the user trusts
the file, only torch's restricted reader is used, which returns tensors and plain values.
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
"""Option with which the user trusts a file."""

UNPACKED_BYTES = 2**27
"""Unpacked size up to which archives are accepted at any compression ratio."""

UNPACKED_RATIO = 50
"""Largest compression ratio of larger archives. Weights compress little."""


class ProbeError(ValueError):
    """Error in a file or option for probing or stripping; the message has the reason and a remedy."""


def require_file(file: Path) -> None:
    """Raise a ProbeError unless a path is a file.

    Raises:
        ProbeError: if the path does not exist, or is a folder; it suggests the file that may be meant.
    """
    if not file.exists():
        zipped = file.with_name(f"{file.name}.zip")
        hint = f" Did you mean {zipped}?" if zipped.exists() else ""
        raise ProbeError(f"There is no file {file}.{hint}")
    if file.is_dir():
        raise ProbeError(f"{file} is a folder: pass the file of a model.")


def require_modest(stream: IO[bytes], what: str) -> None:
    """Raise a ProbeError if an archive would fill the memory: a small file can unpack to any size.

    Args:
        stream: Opened file, which is left at its start. Files that are not archives are accepted.
        what: Name of the file, for messages.

    Raises:
        ProbeError: if the total size of its members exceeds both `UNPACKED_BYTES` and `UNPACKED_RATIO` times
            the size of the file. No reader unpacks more than the sizes recorded in the archive.
    """
    packed = stream.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(stream) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        return  # the reader of the file reports the error
    finally:
        stream.seek(0)
    if unpacked > max(UNPACKED_BYTES, UNPACKED_RATIO * packed):
        raise ProbeError(
            f"{what} has {packed} bytes and would unpack to {unpacked}: no model or batch compresses that"
            " well. If you trust it, save it again without compression."
        )


def read_weights(
    stream: Any,
    what: str,
    *,
    trust: bool = False,
    remedy: str = f"Pass {TRUST} if you trust the file, or save only model.state_dict().",
) -> Any:
    """Read a file of `torch.save` onto the CPU.

    Args:
        stream: Opened file.
        what: Name of the file, for messages.
        trust: Whether pickles in the file may be loaded.
        remedy: Remedy for pickles in the file, for messages.

    Raises:
        ProbeError: as for `checkpoint.load_module`.
    """
    require_modest(stream, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on formats, which are reported below
            return torch.load(stream, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises errors of many kinds for a broken file
        if "TorchScript" in str(error):
            raise ProbeError(torchscript(what)) from error
        called = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
        if called and not trust:
            raise ProbeError(
                f"{what} contains a pickle that calls {', '.join(called)}. A pickle runs its author's code."
                f" {remedy}"
            ) from error
        if isinstance(error, (ImportError, AttributeError)):
            raise ProbeError(not_there(what, error)) from error
        # The reader's advice to lift its restriction is wrong for a file of another kind.
        why = "" if isinstance(error, pickle.UnpicklingError) else f" ({in_short(error)})"
        raise ProbeError(
            f"{what} is neither an intact torch checkpoint nor a model of Stable-Baselines3{why}: it is of"
            " another kind, or truncated. Pass another file."
        ) from error


def is_safetensors(file: Path) -> bool:
    """Return whether a file is in the safetensors format, judging by its suffix or its first bytes."""
    if file.suffix == ".safetensors":
        return True
    with file.open("rb") as stream:
        start = stream.read(9)
    # The length of the header, and the header in JSON.
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and length < file.stat().st_size


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file, which contains tensors and nothing else, onto the CPU.

    Raises:
        ProbeError: if the file is broken, or the package safetensors is not installed.
        OSError: if the file cannot be read.
    """
    try:
        from safetensors import SafetensorError  # noqa: PLC0415  (optional)
        from safetensors.torch import load_file  # noqa: PLC0415
    except ImportError as error:
        raise ProbeError(
            f"{file} needs the package safetensors, which is not installed: pip install safetensors."
        ) from error
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ProbeError(
            f"{file} is not an intact safetensors file: {error}. Save or copy it again."
        ) from error


def require_finite(model: nn.Module, file: Path) -> None:
    """Raise a ProbeError if a network has diverged.

    Raises:
        ProbeError: if a weight is NaN or infinite; it names the first one.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ProbeError(
                f"{file} has weights that are NaN or infinite, the first in {name}: its training diverged,"
                " and no plasticity can be measured. Pass an earlier checkpoint."
            )


# ---- the user's code --------------------------------------------------------------------------------


def import_module(name: str, option: str) -> Any:
    """Import a module that the user named, including from the working folder.

    Raises:
        ProbeError: if it cannot be imported; the message names the option.
    """
    if not name or name.startswith("."):
        raise ProbeError(f"{option} {name!r}: pass the full name of a module, such as my.tasks.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ProbeError(
            f"{option} {name}: {error}. Install it, or run from the folder that contains it."
        ) from error


def module_factory(path: str, keywords: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """Return a function that creates a network.

    Args:
        path: Function or class to call, as ``package.module:function``.
        keywords: Keyword arguments of each call.

    Raises:
        ProbeError: if it does not exist, or the path has another form. The returned function raises it too,
            if its result is not a module.
    """
    name, _, attribute = path.partition(":")
    if not name or not attribute:
        raise ProbeError(
            f"--module {path}: pass PACKAGE.MODULE:FUNCTION, such as my.networks:make."
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
            raise ProbeError(
                f"--module {path}: {error}. Pass arguments with --module-kwargs."
            ) from error
        if not isinstance(made, nn.Module):
            raise ProbeError(
                f"--module {path} returns a {type(made).__name__}, not a torch.nn.Module: pass a function or"
                " class that creates one."
            )
        return made

    return make


def seeded(make: Callable[[], Any]) -> Any:
    """Create a network with the same initial weights in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


# ---- messages ---------------------------------------------------------------------------------------


def not_there(what: str, error: Exception) -> str:
    """Return the message for a file that needs a class which cannot be imported."""
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0].replace("_", "-")
        return (
            f"{what} needs the module {error.name}, which is not installed: install {package}, or run from"
            " the folder that contains it."
        )
    return (
        f"{what} needs a class or function that does not exist ({in_short(error)}): it was saved with"
        " another version of a package, or of your code. Use that version."
    )


def torchscript(what: str) -> str:
    """Return the message for a TorchScript archive."""
    return (
        f"{what} is a TorchScript archive, whose activations cannot be captured: save model.state_dict() of"
        " the Python module that it was made from, and pass that module with --module."
    )


def in_short(error: Exception) -> str:
    """Return an error's type and message on a single line, shortened."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:300] + ' …'}"
