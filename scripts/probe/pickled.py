"""Inspection and editing of pickles, opcode by opcode and without loading them."""

from __future__ import annotations

import base64
import io
import pickle
import pickletools
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

SERIALIZED = ":serialized:"
"""Key under which Stable-Baselines3 writes the pickle of an entry, next to a description in plain text."""

_NUMPY_KIND = re.compile(r"[biufc]\d+")
_WITHOUT_EFFECT = ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "STOP")


@dataclass(frozen=True)
class Reference:
    """Class or function that a pickle imports by name."""

    module: str
    name: str
    start: int
    """Offset of the opcode that imports it."""
    stop: int
    """Offset after that opcode."""
    on_stack: int
    """Number of stack entries that the opcode consumes: 2 if the names were pushed, else 0."""


def pickle_in(entry: object) -> bytes | None:
    """Return the pickle in an entry of a Stable-Baselines3 file, or None if the entry is plain.

    Raises:
        ValueError: if the pickle is not valid base64.
    """
    if not (isinstance(entry, Mapping) and isinstance(entry.get(SERIALIZED), str)):
        return None
    return base64.b64decode(entry[SERIALIZED])


def references(pickled: bytes) -> Iterator[Reference]:
    """Yield the classes and functions that a pickle imports, in order.

    Raises:
        ValueError: if the bytes are not a pickle, or a name is computed while loading.
    """
    memo: dict[int, object] = {}
    pushed: list[object] = []
    for code, value, start, stop in _operations(pickled):
        if code == "MEMOIZE":
            memo[len(memo)] = pushed[-1] if pushed else None
        elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(str(value))] = pushed[-1] if pushed else None
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            pushed.append(memo.get(int(str(value))))
        elif code in ("GLOBAL", "INST"):
            module, _, name = str(value).partition(" ")
            yield Reference(module, name, start, stop, 0)
            pushed.append(None)
        elif code == "STACK_GLOBAL":
            names = [each for each in pushed[-2:] if isinstance(each, str)]
            if len(names) < 2:
                raise ValueError("it imports a name that is not a literal")
            yield Reference(names[0], names[1], start, stop, 2)
            pushed.append(None)
        elif code not in ("PROTO", "FRAME", "STOP"):
            pushed.append(value if isinstance(value, str) else None)


def sole_class(pickled: bytes) -> tuple[str, str] | None:
    """Return module and name of the class, if a pickle consists of a reference to one; else None."""
    try:
        codes = [code for code, *_ in _operations(pickled) if code not in _WITHOUT_EFFECT]
        found = list(references(pickled))
    except ValueError:
        return None
    names_alone = codes == ["GLOBAL"] or (len(codes) == 3 and codes[2] == "STACK_GLOBAL")
    return (found[0].module, found[0].name) if names_alone and len(found) == 1 else None


def number_kinds(pickled: bytes) -> set[str]:
    """Return the NumPy type codes in a pickle of arrays, such as {"f4"}.

    Raises:
        ValueError: if the bytes are not a pickle.
    """
    return {
        value
        for _, value, *_ in _operations(pickled)
        if isinstance(value, str) and _NUMPY_KIND.fullmatch(value)
    }


def edited(
    pickled: bytes,
    replace: Callable[[Reference], tuple[str, str] | None],
    entries: Mapping[str, object],
) -> bytes:
    """Return the pickle of a dictionary with classes and entries replaced, and the rest unchanged.

    Args:
        pickled: Pickle of a dictionary.
        replace: Function that returns the module and name to import instead of a reference, or None to keep
            it.
        entries: Plain values to set in the dictionary.

    Raises:
        ValueError: if the bytes are not a pickle of protocol 4 or newer.
    """
    done, parts = 0, []
    for reference in references(pickled):
        other = replace(reference)
        if other is not None:
            # The old names are still pushed, since the memo may keep them for later use, and then popped.
            imported = pickle.GLOBAL + "\n".join(other).encode() + b"\n"
            parts += [pickled[done : reference.start], pickle.POP * reference.on_stack + imported]
            done = reference.stop
    # The lengths of frames have changed; frames are optional, so drop them.
    whole = _without(("FRAME",), b"".join([*parts, pickled[done:]]))
    if not whole.startswith(pickle.PROTO) or whole[1] < 4:
        raise ValueError("it has an old protocol")
    body, last = whole[:-1], whole[-1:]
    for name, value in entries.items():
        body += _pushing(name) + _pushing(value) + pickle.SETITEM
    return body + last


def _operations(pickled: bytes) -> Iterator[tuple[str, object, int, int]]:
    """Yield name, argument, start and end offset of each opcode of a pickle.

    Raises:
        ValueError: if the bytes are not a pickle.
    """
    try:
        found = [
            (code.name, value, start or 0) for code, value, start in pickletools.genops(pickled)
        ]
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not a pickle: {error}") from error
    stops = [*(start for *_, start in found[1:]), len(pickled)]
    yield from ((*operation, stop) for operation, stop in zip(found, stops, strict=True))


def _without(codes: Container[str], pickled: bytes) -> bytes:
    """Return a pickle without certain opcodes."""
    kept = [
        pickled[start:stop] for code, _, start, stop in _operations(pickled) if code not in codes
    ]
    return b"".join(kept)


def _pushing(value: object) -> bytes:
    """Return opcodes that push a plain value without using the memo of the surrounding pickle."""
    written = io.BytesIO()
    pickler = pickle.Pickler(written, 4)
    pickler.fast = True  # without the memo
    pickler.dump(value)
    return _without(("PROTO", "FRAME", "STOP"), written.getvalue())
