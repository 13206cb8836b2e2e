"""Figures of papers as experiments, and the registry that `@figure` adds them to.

A figure is a class in a file of its own: the configuration of its runs, its arms, the conditions for
"holds" and its panels. `plasticity reproduce NAME` trains the arms as ordinary runs, judges, and draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from plasticity.checks import require_known
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.benchmarks import register_benchmark
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import RunConfig
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from plasticity.scripts.report.panels import HeatMap, Panel, Pictures

SYRE = "Remove Symmetries to Control Model Expressivity and Improve Optimization (ICLR 2025)"
"""Paper of Ziyin, Xu and Chuang."""

PARAMETER_SYMMETRY = "Parameter Symmetry Potentially Unifies Deep Learning Theory (2025)"
"""Paper of Ziyin and coauthors."""

SCALES = ("small", "full")
"""Names of the sizes that a figure is reproduced at; the first one is the default."""


class Figure(ABC):
    """Figure of a paper: what is run, what must be seen, and how it is drawn.

    The runs are ordinary ones of a benchmark of their own: `plasticity run`, `sweep` and `report` take them
    too.
    """

    name: ClassVar[str]
    """Name in `plasticity reproduce`, given by `@figure`."""

    paper: ClassVar[str]
    """Title and year of the paper."""

    number: ClassVar[str]
    """Number of the figure, table or theorem in the paper: "Figs. 2 and 7"."""

    claim: ClassVar[str]
    """Statement of the paper that is tested: one sentence, without its full stop."""

    config: ClassVar[RunConfig]
    """Configuration of the runs; arms, scale and options change its settings. Its `benchmark` is the name of
    the figure, unless there is a benchmark of this name already."""

    methods: ClassVar[tuple[str, ...]]
    """Methods of the arms."""

    mitigations: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings of mitigations that differ from their own defaults, by mitigation and field."""

    scales: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Values by path that each of `SCALES` gives the configuration."""

    minutes: ClassVar[float | None] = None
    """Time of all runs of the small scale on one core of a laptop, as measured, in minutes. None: unknown."""

    requires: ClassVar[str] = ""
    """Option that must be given, such as "--weights PATH", so that `reproduce all` leaves the figure out."""

    num_seeds: ClassVar[int] = 5
    """Number of seeds that are trained unless `--seeds` says otherwise: 0, 1, …"""

    min_seeds: ClassVar[int] = 3
    """Number of seeds that a verdict needs: 1 where nothing is random."""

    @abstractmethod
    def arms(self, scale: str) -> Sequence[Arm]:
        """Return the arms that are run at a scale (`plasticity.scripts.reproduce.arms.grid`)."""

    @abstractmethod
    def requirements(self, results: Results) -> Sequence[Check]:
        """Check what the plain arm must reach for the figure to mean anything."""

    @abstractmethod
    def claims(self, results: Results) -> Sequence[Check]:
        """Check what must be seen for "holds"; stated before the runs."""

    @abstractmethod
    def sentence(self, results: Results) -> str:
        """Return one sentence about what came out, with its numbers, without its full stop."""

    @abstractmethod
    def panels(self, results: Results) -> Sequence[Sequence[Panel | HeatMap | Pictures]]:
        """Return the panels of the figure, row by row."""

    def draw(self, results: Results, caption: str) -> Drawing:
        """Draw the figure, with its caption; overridden where it is something other than panels."""
        from plasticity.scripts.report.panels import panels_figure  # noqa: PLC0415  (matplotlib)

        return panels_figure(self.panels(results), "step", caption)


FIGURES: dict[str, Figure] = {}
"""Figures by name."""

_Kind = TypeVar("_Kind", bound="type[Figure]")


def figure(name: str) -> Callable[[_Kind], _Kind]:
    """Register a figure under a name, and its runs as a benchmark; also from a user's module.

    Raises:
        ValueError: if the name, or that of the benchmark, is taken, or the figure lacks a scale.
    """

    def register(kind: _Kind) -> _Kind:
        if name in FIGURES:
            raise ValueError(f"There is a figure {name!r} already: give the figure another name.")
        if tuple(kind.scales) != SCALES:
            raise ValueError(
                f"The figure {name!r} has the scales {tuple(kind.scales)}, expected {SCALES}."
            )
        made = kind()
        scale = Presets(
            help="Size: small for some minutes on a CPU, full for that of the paper.",
            default=SCALES[0],
            groups={name: Preset(values=values) for name, values in kind.scales.items()},
        )
        register_benchmark(
            Benchmark(
                description=f"{kind.claim} ({kind.number} of: {kind.paper})",
                config=with_values(kind.config, kind.scales[SCALES[0]]),
                methods=kind.methods,
                published=kind.mitigations,
                presets={"scale": scale},
            )
        )
        kind.name = name
        FIGURES[name] = made
        return kind

    return register


def require_figure(name: str) -> Figure:
    """Return a figure by name.

    Raises:
        ValueError: if there is none of this name; the message suggests the nearest.
    """
    require_known("figure", name, FIGURES)
    return FIGURES[name]
