"""The page of the comparison has the tables that its rows give."""

import importlib
import json
import sys
import tarfile
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "comparison.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "comparison")  # as if run as a script
        yield importlib.import_module("tables")


@pytest.fixture
def measures(tables):
    return sys.modules["measures"]


def test_the_page_has_every_table_whole(tables):
    for heading, lines in tables.sections().items():
        assert "\n".join(lines) in PAGE, f"{heading}: run python docs/comparison/tables.py"


def test_the_page_has_no_other_table_of_the_finals(tables):
    made = {line for lines in tables.sections().values() for line in lines}
    written = PAGE[PAGE.index("## Finals, stream 1") :].splitlines()
    assert [line for line in written if line.startswith("|") and line not in made] == []


def test_a_run_that_diverged_has_the_worst_value(measures, monkeypatch):
    values = {"none": {0: 0.5, 1: None}, "syre": {0: 0.75, 1: 0.25}}

    class Arm:
        positions = (0, 1)

        def __init__(self, label):
            self.label = label

    class Comparison:
        arms = tuple(map(Arm, values))

    monkeypatch.setattr(measures, "comparison_of", lambda file, stream: Comparison)
    monkeypatch.setattr(measures, "values_at", lambda arm, metric, moment, where: values[arm.label])
    found = measures.primary(measures.Stream(1))
    assert found == {"none": {0: 50.0, 1: 0.0}, "syre": {0: 75.0, 1: 25.0}}
    found = measures.primary(measures.Stream(1, "online_loss"))
    assert found["none"] == {0: 0.5, 1: 0.75}
    found = measures.primary(measures.Stream(1, "episode_return"))
    assert found["none"] == {0: 0.5, 1: 0.25}


def test_returns_are_averaged_over_the_steps_of_a_task(tables):
    """By hand, from the rows: each stands for the steps since the one before it."""

    def average(rows, start, end):
        before, total = start, 0.0
        for row in (row for row in rows if start < row["step"] <= end):
            total += (row["step"] - before) * row["episode_return"]
            before = row["step"]
        return total / (end - start)

    runs = []
    with tarfile.open(DOCS / "comparison" / "finals_7.tar.xz") as archive:
        for seed in range(10):
            name = f"offset-cartpole/none/seed_{seed}/metrics.jsonl"
            runs.append([json.loads(line) for line in archive.extractfile(name)])
    spans = (16_000, 160_000), (0, 16_000), (144_000, 160_000)  # tasks 1 to 9, the first, the last
    expected = [sum(average(rows, *span) for rows in runs) / len(runs) for span in spans]
    lines = tables.stream_table(tables.Stream(7, "episode_return"), "finals_7", "syre")
    (row,) = (line for line in lines if line.startswith("| `none`"))
    cells = row.split(" | ")
    found = [float(cells[column].split()[0]) for column in (1, 4, 5)]
    assert found == pytest.approx(expected, abs=0.05)
