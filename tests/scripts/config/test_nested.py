import json
import re
from dataclasses import dataclass, field

import pytest

from plasticity.scripts.config.nested import (
    field_docstrings,
    flattened,
    from_plain,
    setting_at,
    settings_of,
    to_plain,
    with_values,
)


@dataclass(frozen=True)
class Leaf:
    width: int = 3
    """Width of it,
    over two lines."""

    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""

    def __post_init__(self) -> None:
        if self.width * len(self.sizes) > 100:
            raise ValueError("too much")


@dataclass(frozen=True)
class Root:
    name: str
    """Name."""

    leaf: Leaf = field(default_factory=Leaf)
    """Nested."""

    count: int = field(default=1, metadata={"option": "how-many"})
    undocumented: float | None = None


@dataclass(frozen=True)
class Longer(Root):
    more: bool = False
    """More of it."""

    name: str = "other"
    """Another docstring."""


ROOT = Root("a")


def test_settings_with_their_documentation():
    found = [(each.path, each.option, each.value, each.help) for each in settings_of(ROOT)]
    assert found == [
        ("name", "name", "a", "Name."),
        ("leaf.width", "width", 3, "Width of it,\nover two lines."),
        ("leaf.sizes", "sizes", (1, 2), "Sizes."),
        ("count", "how-many", 1, ""),
        ("undocumented", "undocumented", None, ""),
    ]
    assert [each.type for each in settings_of(ROOT)] == [
        str,
        int,
        tuple[int, ...],
        int,
        float | None,
    ]
    assert [setting_at(ROOT, each.path) for each in settings_of(ROOT)] == [
        each.value for each in settings_of(ROOT)
    ]


def test_docstrings_of_base_classes_count_unless_overridden():
    assert field_docstrings(Longer) == {
        "name": "Another docstring.",
        "leaf": "Nested.",
        "more": "More of it.",
    }


def test_a_class_without_a_source_has_no_docstrings():
    made = dataclass(type("Made", (), {"__annotations__": {"a": int}, "a": 1}))
    assert field_docstrings(made) == {}


def test_values_are_changed_by_path_and_checked_against_each_other():
    changed = with_values(ROOT, {"leaf.width": 60, "leaf.sizes": (1,), "count": 2})
    assert changed == Root("a", Leaf(60, (1,)), 2)
    assert with_values(ROOT, {}) is ROOT
    with pytest.raises(ValueError, match="too much"):
        with_values(ROOT, {"leaf.width": 60})
    # A whole part first, whatever the order, and then a value in it.
    assert with_values(ROOT, {"leaf.width": 5, "leaf": Leaf(1, (9,))}) == Root("a", Leaf(5, (9,)))


def test_plain_form_and_back():
    plain = to_plain(ROOT)
    assert plain == {
        "name": "a",
        "leaf": {"width": 3, "sizes": [1, 2]},
        "count": 1,
        "undocumented": None,
    }
    assert from_plain(Root, json.loads(json.dumps(plain)), "it") == ROOT


def test_missing_keys_have_their_defaults_or_those_of_a_fallback():
    assert from_plain(Root, {"name": "a", "leaf": {"sizes": []}}, "it") == Root("a", Leaf(3, ()))
    fallback = Root("b", Leaf(7, (8,)), 9)
    found = from_plain(Root, {"leaf": {"sizes": []}}, "it", fallback)
    assert found == Root("b", Leaf(7, ()), 9)


@pytest.mark.parametrize(
    ("plain", "error", "message"),
    [
        ({"nam": "a"}, ValueError, "Unknown key of it 'nam'. Did you mean 'name'?"),
        ({}, ValueError, "it lacks name: give it."),
        (
            {"name": "a", "leaf": {"widht": 1}},
            ValueError,
            "key of it.leaf 'widht'. Did you mean 'width'",
        ),
        (
            {"name": "a", "leaf": 3},
            TypeError,
            "it.leaf must be an object of names and values, not 3.",
        ),
        ({"name": "a", "leaf": {"sizes": 3}}, TypeError, "it.leaf.sizes must be a list, not 3."),
        ({"name": "a", "count": [3]}, TypeError, "it.count must be a single value, not [3]."),
        ({"name": "a", "count": {"a": 3}}, TypeError, "it.count must be a single value"),
        ([], TypeError, "it must be an object of names and values, not []."),
    ],
)
def test_wrong_plain_forms_are_refused_by_path(plain, error, message):
    with pytest.raises(error, match=re.escape(message)):
        from_plain(Root, plain, "it")


@dataclass(frozen=True)
class _Shape:
    kind: str = field(init=False, default="shape")
    size: int = 1


@dataclass(frozen=True)
class _Disk(_Shape):
    kind: str = field(init=False, default="disk")
    radius: float = 0.5


@dataclass(frozen=True)
class _Drawing:
    shape: _Shape = field(default_factory=_Shape)


def test_a_field_may_hold_one_of_several_kinds():
    """A field that a class fixes is saved, but is no setting; which class is made, the caller says."""
    drawing = _Drawing(_Disk(size=3))
    plain = to_plain(drawing)
    assert plain == {"shape": {"kind": "disk", "size": 3, "radius": 0.5}}
    assert [each.path for each in settings_of(drawing)] == ["shape.size", "shape.radius"]
    assert from_plain(_Drawing, plain, "", None, {"shape": _Disk}) == drawing
    # The fallback is of another kind: its values mean nothing.
    other = _Drawing(_Shape(size=7))
    plain = {"shape": {"kind": "disk", "radius": 1}}
    assert from_plain(_Drawing, plain, "", other, {"shape": _Disk}) == _Drawing(_Disk(radius=1.0))
    with pytest.raises(ValueError, match="Unknown key of shape 'radius'"):
        from_plain(_Drawing, plain, "", other)


def test_flattened():
    assert flattened({"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}}) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": None,
        "f": None,
    }
