"""Inspection and editing of pickles, against Python's unpickler."""

import collections
import fractions
import io
import pickle

import cloudpickle
import numpy as np
import pytest

from plasticity.scripts.probe.pickled import edited, number_kinds, pickle_in, references, sole_class


def found(pickled):
    return [(each.module, each.name) for each in references(pickled)]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_references_are_those_that_an_unpickler_looks_up(protocol):
    value = {"a": collections.Counter("abc"), "b": [fractions.Fraction(1, 3)] * 2, "c": np.ones(2)}
    looked_up = []

    class Recording(pickle.Unpickler):
        def find_class(self, module, name):
            looked_up.append((module, name))
            return super().find_class(module, name)

    pickled = pickle.dumps(value, protocol)
    # Protocols before 3 write the names of Python 2, which the unpickler translates afterwards.
    Recording(io.BytesIO(pickled), fix_imports=False).load()
    assert found(pickled) == looked_up
    assert len(looked_up) > 2


def test_names_in_the_memo_are_found():
    pickled = pickle.dumps([collections.Counter, "Counter", "collections", collections.OrderedDict])
    assert found(pickled) == [("collections", "Counter"), ("collections", "OrderedDict")]


def test_computed_names_are_refused():
    # No string precedes the opcode that imports.
    pickled = b"\x80\x04\x8c\x02os]\x93."
    with pytest.raises(ValueError, match="not a literal"):
        list(references(pickled))
    assert sole_class(pickled) is None


@pytest.mark.parametrize("content", [b"", b"*", b"\x80\x04", b"hello", b"\x80\x05\x95"])
def test_other_bytes_are_refused(content):
    with pytest.raises(ValueError, match=r"pickle|opcode|exhausted|unknown|data"):
        list(references(content))


@pytest.mark.parametrize("protocol", [4, 5])
def test_editing_changes_only_the_class_and_the_given_entries(protocol):
    shared = [1, 2]
    before = {
        "first": shared,
        "class": collections.Counter,
        "again": collections.Counter,
        "module": "collections",  # a name of the class, which is in the memo
        "kwargs": {"a": 1, "Counter": 2},
        "last": (shared, fractions.Fraction),
    }

    def other(reference):
        return ("collections", "OrderedDict") if reference.name == "Counter" else None

    entries = {"kwargs": {"eps": 1e-5, "betas": (0.5, 0.9), "text": "ä", "none": None}, "new": [1]}
    after = pickle.loads(edited(pickle.dumps(before, protocol), other, entries))
    classes = dict.fromkeys(("class", "again"), collections.OrderedDict)
    assert after == {**before, **classes, **entries}
    assert after["last"][0] is after["first"]


def test_long_pickles_are_edited_across_their_frames():
    # Frames have 64 KiB, and long strings are outside of them.
    before = {f"{index}": "x" * 100_000 for index in range(3)} | {
        f"number {index}": index for index in range(20_000)
    }
    before["class"] = collections.Counter
    after = edited(pickle.dumps(before), lambda _: ("fractions", "Fraction"), {"0": 1.5})
    assert pickle.loads(after) == {**before, "class": fractions.Fraction, "0": 1.5}


def test_functions_pickled_by_value_are_preserved():
    factor = 3
    before = cloudpickle.dumps({"function": lambda x: factor * x, "class": collections.Counter})

    def other(reference):
        return ("collections", "OrderedDict") if reference.name == "Counter" else None

    after = pickle.loads(edited(before, other, {}))
    assert after["function"](2) == 6
    assert after["class"] is collections.OrderedDict


def test_old_protocols_are_refused():
    with pytest.raises(ValueError, match="old protocol"):
        edited(pickle.dumps({}, 2), lambda _: None, {})


def test_type_codes_of_numbers():
    value = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float64), "c": np.ones(2, np.uint8)}
    assert number_kinds(cloudpickle.dumps(value)) == {"f4", "f8", "u1"}


def test_plain_entries_have_no_pickle():
    assert pickle_in({"a": 1}) is pickle_in(3) is pickle_in(None) is None
    assert pickle_in({":serialized:": "Kg=="}) == b"*"
