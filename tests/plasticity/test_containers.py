"""Functions of the leaves of nested containers."""

import math
from collections import OrderedDict, namedtuple

import torch

from plasticity.containers import finite_or_none, mapped

Pair = namedtuple("Pair", ["first", "second"])


def test_every_leaf_is_mapped_and_the_containers_keep_their_types():
    tree = {"a": [1, (2, 3)], "b": OrderedDict(c=4), "d": Pair(5, [6])}
    found = mapped(lambda leaf: 10 * leaf, tree)
    assert found == {"a": [10, (20, 30)], "b": OrderedDict(c=40), "d": Pair(50, [60])}
    assert type(found["b"]) is OrderedDict
    assert type(found["d"]) is Pair
    assert tree["a"] == [1, (2, 3)]
    assert mapped(lambda leaf: leaf.shape, torch.ones(2)) == (2,)


def test_json_gets_none_for_floats_that_it_does_not_have():
    assert [finite_or_none(x) for x in (math.nan, -math.inf, 1.5, 2, "nan")] == [
        None, None, 1.5, 2, "nan",
    ]  # fmt: skip
