"""Reader of run folders, finished or not. Nothing here writes."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from plasticity.mitigations import METHOD_SEPARATOR, PLAIN
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.imports import import_saved
from plasticity.scripts.config.nested import flattened
from plasticity.scripts.report.axis import TASK, Axis, axis_of
from plasticity.scripts.report.episodes import read_episodes, task_means

NOT_METRICS = ("diverged", "boundary", "episodes")
"""Keys of a row for what it covers; others are metrics, but for its position and what its task is."""

REQUIRED_KEYS = ("benchmark", "method", "seed")
"""Keys that the `config.json` of a run must have."""

PARTIAL = ".collecting"
"""Ending of the name of a folder that `plasticity collect` was copying when it was interrupted."""

ARCHIVE = ".tar.xz"
"""Ending of the name of a compressed file that `plasticity collect` packs runs into."""

Row = Mapping[str, float | None]


@dataclass(frozen=True)
class Run:
    """Contents of one run folder."""

    path: Path
    """Run folder, `<out>/<benchmark>/<method>/seed_<n>`."""

    config: Mapping[str, Any]
    """Contents of its `config.json`."""

    rows: tuple[Row, ...]
    """Rows of `metrics.jsonl`: numbers, with None for values that are not finite, and the flag `diverged` as
    0 or 1."""

    half_written: bool
    """Whether an incomplete last line was left out."""

    texts: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Texts by which the rows describe tasks, such as the name of a game: by key of the rows, and by task."""

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return str(self.config["benchmark"])

    @property
    def method(self) -> str:
        """Name of the method."""
        return METHOD_SEPARATOR.join(self.config["method"]) or PLAIN

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    @cached_property
    def flat_config(self) -> Mapping[str, Any]:
        """Settings by path: `stream.num_tasks`."""
        return flattened(self.config)

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Keys of a row that tell what its task is; none of a benchmark that is not known."""
        return _described_by(self.benchmark)

    @property
    def axis(self) -> Axis:
        """Axis of the rows."""
        return axis_of(self.benchmark)

    def position(self, row: Row) -> int:
        """Return the task (or step) of a row."""
        return _position(row, self.axis.name)

    @cached_property
    def by_position(self) -> Mapping[int, Row]:
        """Rows by their task (or step)."""
        return {self.position(row): row for row in self.rows}

    @cached_property
    def regular_positions(self) -> frozenset[int]:
        """Positions of the rows that other seeds have too.

        A change of the task adds a row at the end of an episode, at a step that differs from seed to
        seed; the rows at every `measure_every` steps are common to all.
        """
        every = self.flat_config.get("tracking.measure_every")
        return frozenset(
            position
            for position, row in self.by_position.items()
            if not row.get("boundary") or (_is_whole(every) and every and position % every == 0)
        )

    @property
    def planned(self) -> int:
        """Planned number of tasks (or steps).

        Raises:
            ValueError: if the configuration does not have it.
        """
        key = self.axis.length
        total = self.flat_config.get(key)
        if not _is_whole(total):
            raise ValueError(
                f"{self.path / 'config.json'} has {key}={total!r}: expected the planned number"
                f" of {self.axis.name}s, an integer. Restore the file."
            )
        return total

    @property
    def task_length(self) -> int:
        """Number of steps in a task; 1 where the rows are tasks, and where there are no tasks."""
        every = self.flat_config.get("stream.change_every")
        return 1 if self.axis.is_dense or not _is_whole(every) else max(every, 1)

    @cached_property
    def diverged_at(self) -> int | None:
        """Task (or step) of the first row that reports a non-finite loss; None if there is none."""
        for row in self.rows:
            if row.get("diverged"):
                return self.position(row)
        return None

    @property
    def finished(self) -> bool:
        """Whether the run has all its rows; a diverged run gets no more."""
        if not self.rows:
            return False
        # The row at a change of the task, whatever its step, is never the last of a run.
        done = self.axis.done_at(max(self.regular_positions, default=-1))
        return self.diverged_at is not None or done >= self.planned

    @cached_property
    def task_returns(self) -> Mapping[int, float]:
        """Mean return of the episodes of each task that was played to its end; empty for runs without steps.

        Read from `episodes.jsonl`; without it computed from the rows, weighted by their numbers of episodes,
        but for those that begin when their task has ended: most of their episodes may be the next task's.

        Raises:
            ValueError: if `episodes.jsonl` is broken.
        """
        every = self.flat_config.get("stream.change_every")
        if not self.rows or self.axis.is_dense or not _is_whole(every):
            return {}
        reached = max(self.by_position)
        if self.diverged_at is not None:
            reached = self.diverged_at - 1
        file = self.path / "episodes.jsonl"
        means = task_means(read_episodes(file) if file.exists() else self._rows_within_tasks(every))
        # A task that was cut short is not comparable with one that was learnt for its full length.
        return {task: mean for task, mean in means.items() if (task + 1) * every <= reached}

    def _rows_within_tasks(self, every: int) -> list[Row]:
        """Return the rows that begin, where the one before ends, within their own task."""
        starts = [0, *map(self.position, self.rows)]
        return [
            row
            for start, row in zip(starts, self.rows, strict=False)
            if start < (_position(row, TASK) + 1) * every
        ]

    def described(self, key: str) -> Mapping[int, float | str]:
        """Return what the stream tells of each task under one of `descriptions`, where the rows have it."""
        if key in self.texts:
            return self.texts[key]
        pairs = ((_position(row, TASK), row.get(key)) for row in self.rows)
        return {task: value for task, value in pairs if value is not None}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what was measured, in the order of the rows."""
        others = (*self.axis.keys, *NOT_METRICS, *self.descriptions)
        names = {name: None for row in self.rows for name in row if name not in others}
        return tuple(names)

    def value(self, metric: str, position: int) -> float | None:
        """Return one value; None where there is no row or no finite value, and once the run diverged."""
        if self.diverged_at is not None and position >= self.diverged_at:
            return None
        row = self.by_position.get(position)
        return None if row is None else row.get(metric)


def _described_by(benchmark: str) -> tuple[str, ...]:
    known = BENCHMARKS.get(benchmark)
    return () if known is None else tuple(known.config.stream.described)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _position(row: Row, key: str) -> int:
    position = row[key]
    assert position is not None  # checked by _parse_row
    return int(position)


def find_runs(root: Path) -> list[Run]:
    """Read every run below a folder, in the order of their paths.

    Args:
        root: Folder to search for files `config.json`, at any depth; but not in half a copy of a run.

    Raises:
        ValueError: if it is not a folder, contains no run, or contains a broken one; the message names
            the file and the line.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"{root} {what}: expected a folder of runs. {_remedy(root)}")
    found = (file.parent for file in root.rglob("config.json"))
    paths = sorted(path for path in found if not path.name.endswith(PARTIAL))
    if not paths:
        raise ValueError(
            f"No runs in {root}: looked for a config.json in it and in every folder below it"
            f" (<benchmark>/<method>/seed_<n>/config.json). {_remedy(root)}"
        )
    return [read_run(path) for path in paths]


def _remedy(root: Path) -> str:
    if root.is_file() and root.name.endswith(ARCHIVE):
        return f"Unpack it with: plasticity collect {root} --out runs/collected"
    return f"Create runs with: plasticity run permuted-digits --out {root}"


def read_run(path: Path) -> Run:
    """Read one run folder.

    Args:
        path: Folder with `config.json`, and `metrics.jsonl` once there is a row.

    Raises:
        ValueError: if a file is broken, or the benchmark is unknown; an incomplete last line of
            `metrics.jsonl` is left out instead.
    """
    config = _read_config(path / "config.json")
    axis = axis_of(str(config["benchmark"]))
    described = _described_by(str(config["benchmark"]))
    file = path / "metrics.jsonl"
    if not file.exists():
        return Run(path, config, (), half_written=False)
    lines = _read_text(file).splitlines()
    rows: list[Row] = []
    texts: dict[str, dict[int, str]] = {}
    half_written = False
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # the run is going on, or was killed while writing
                half_written = True
                break
            raise ValueError(
                f"{file}, line {number}, is not JSON ({error}): remove {path} and run it again."
            ) from error
        where = f"{file}, line {number}"
        given = _texts(content, described)
        rows.append(_parse_row(content, axis, where, without=given))
        for key, text in given.items():
            texts.setdefault(key, {})[_position(rows[-1], TASK)] = text
        _require_order(rows, axis.name, where)
    return Run(path, config, tuple(rows), half_written, texts)


def _texts(content: Any, described: Collection[str]) -> dict[str, str]:
    """Return the texts by which a row tells what its task is."""
    row = content if isinstance(content, dict) else {}
    return {key: row[key] for key in described if isinstance(row.get(key), str)}


def _read_text(file: Path) -> str:
    try:
        # errors="replace": the incomplete last line may end within a character.
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"Cannot read {file}: {error.strerror}.") from error


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} is not JSON ({error}): remove its folder and run it again."
        ) from error
    missing = [key for key in REQUIRED_KEYS if not isinstance(config, dict) or key not in config]
    if missing:
        raise ValueError(
            f"{file} is not the configuration of a run: it lacks {', '.join(missing)}. Give a"
            " folder that contains only runs."
        )
    try:
        import_saved(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not _is_whole(config["seed"]):
        raise ValueError(f"{file}: seed must be an integer, not {config['seed']!r}.")
    if not isinstance(config["method"], dict):
        raise ValueError(  # noqa: TRY004  (a broken file)
            f"{file}: method must be an object of mitigations, not {config['method']!r}."
        )
    return dict(config)


def _parse_row(content: Any, axis: Axis, where: str, *, without: Collection[str]) -> Row:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a JSON object, not {content!r}.")  # noqa: TRY004  (a broken file)
    for key in axis.keys:
        position = content.get(key)
        if not _is_whole(position) or position < 0:
            raise ValueError(
                f"{where}: {key!r} must be an integer of at least 0, not {position!r}."
            )
    row: dict[str, float | None] = {}
    for name, value in content.items():
        if name in without:
            continue
        if value is not None and not isinstance(value, (int, float)):
            raise ValueError(f"{where}: {name!r} must be a number or null, not {value!r}.")
        row[name] = None if value is None or not math.isfinite(value) else float(value)
    return row


def _require_order(rows: list[Row], axis: str, where: str) -> None:
    if len(rows) < 2:
        return
    before, now = (_position(row, axis) for row in rows[-2:])
    if now <= before:
        raise ValueError(
            f"{where}: {axis} {now} comes after {axis} {before}; expected a later one."
        )
