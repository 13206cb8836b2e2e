"""Tables of a dataclass's fields."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from plasticity.scripts.reference.fields import fields_table, type_name


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Settings inside of others."""

    rate: float = 0.5
    """Rate."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Settings."""

    out: Path
    """Folder of the
    results."""

    num_tasks: int | None = None
    """Number of tasks."""

    kind: Literal["a", "b"] = field(default="a", metadata={"option": "sort"})
    """Kind."""

    inner: Inner = field(default_factory=Inner)
    """Others."""

    fixed: int = field(default=3, init=False)
    """No setting."""


def test_each_field_has_its_type_default_and_docstring():
    assert fields_table(Outer).strip().splitlines()[2:] == [
        "| `out` | `Path` | required | Folder of the results. |",
        "| `num_tasks` | `int | None` | `None` | Number of tasks. |",
        "| `kind` | `'a' | 'b'` | `'a'` | Kind. |",
        "| `inner` | `Inner` | those of `Inner` | Others. |",
    ]


def test_options_are_named_as_on_the_command_line():
    found = fields_table(Outer, options=True, without=("inner",), required="the benchmark's")
    rows = found.strip().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| `--out`", "| `--num-tasks`", "| `--sort`"]
    assert rows[0].split(" | ")[2] == "the benchmark's"


def test_a_class_without_fields_says_so():
    @dataclass
    class Empty:
        """No settings."""

    assert fields_table(Empty) == "\nIt has no settings.\n"


def test_annotations_read_as_they_are_written():
    assert type_name(Annotated[tuple[int, ...], "seeds"]) == "tuple[int, ...]"
    assert type_name(dict[str, float | None]) == "dict[str, float | None]"
