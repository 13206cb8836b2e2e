"""Fig. 6 of syre: rank and return of PPO's ant on ground whose friction changes.

The runs are those of the benchmark `slippery-ant` (PyBullet, the published settings of PPO) under weight
decay and syre with the same decay. The rank is the effective rank of the actor's last hidden layer on its
latest 2048 observations; beside it, the degree of symmetry: pairs of neighbouring neurons closer than a tenth
of their layer's typical distance. The scale `full` has the paper's schedule: a new friction every 5 million
steps, 20 million in all, with one environment and Adam's betas of 0.99, as published for its decay. The scale
`small` has a new friction every 40,960 steps and ends after 163,840, at which the ant still learns to walk:
it cannot show what is lost after millions of steps, only what the decay does to the rank of a young agent.

The criterion, stated before the runs of the figure. The plain arm is weight decay: its return after the first
row must be above that of the first row. The claim holds if (1) the rank under weight decay is lower in the
last quarter of the run than in the second one (the first belongs to an agent that hardly walks), (2) so is
the return, (3) the rank under syre is higher than under weight decay in the last quarter, and (4) so is the
return; each by the 95 % interval, paired by seed.

At full scale the strength is that of the published L2 arm, 0.001; at small scale 0.004, with which less time
is enough for the decay to act (the search is in docs/reproduce.md). Sigma is that of the benchmark's search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from plasticity.agents.ppo.config import PRESETS
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.report.statistics import estimate, paired_estimate
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.figure import SYRE, Figure, figure
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown
from plasticity.tasks import SCHEDULES

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import Panel

LAYER = "actor.fc2"
"""Last hidden layer of the actor."""

RANK, SYMMETRY, RETURN = f"effective_rank/{LAYER}", f"degree_of_symmetry/{LAYER}", "episode_return"

STRENGTHS = {"small": 0.004, "full": 0.001}
"""Strength of both decays, by scale."""


def quarter(results: Results, number: int) -> slice:
    """Return the rows of a quarter of the runs, the first of which is 0."""
    rows = len(results.runs("weight-decay")[0].regular_positions)
    return slice(number * rows // 4, (number + 1) * rows // 4)


@figure("slippery-ant")
class SlipperyAnts(Figure):
    """Return, rank and symmetry over steps."""

    paper = SYRE
    number = "Fig. 6"
    claim = "rank and return fall under decay, less under syre"
    config = with_values(
        replace(BENCHMARKS["slippery-ant"].config, benchmark="slippery-ant-figure"),
        {"tracking.metrics": ("effective_rank", "dead_fraction", "degree_of_symmetry")},
    )
    methods = ("weight-decay", "syre")
    minutes = 25.0
    mitigations: ClassVar = {"syre": {"sigma": 0.3}}
    scales: ClassVar = {
        "small": {"stream.num_steps": 163_840, "stream.change_every": 40_960},
        "full": {
            "stream.num_steps": 20_000_000,
            "stream.change_every": SCHEDULES["syre"],
            "stream.num_envs": 1,
            "agent": PRESETS["non-stationary"],
            "tracking.measure_every": 102_400,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return an arm for each method, with the same strength."""
        return [Arm(method, {f"{method}.strength": STRENGTHS[scale]}) for method in self.methods]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that weight decay learns to walk."""
        later, first = (
            results.over_rows(RETURN, "weight-decay", rows) for rows in (slice(1, None), slice(1))
        )
        statement = "weight decay learns: its return is higher after the first row than in it"
        return [Check.above(statement, paired_estimate(later, first), 0.0)]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check what falls under weight decay, and what syre keeps."""
        second, last = quarter(results, 1), quarter(results, 3)
        names = {RANK: "rank", RETURN: "return"}
        falls = [
            Check.below(
                f"weight decay: the {name} is lower in the last quarter than in the second",
                paired_estimate(
                    results.over_rows(metric, "weight-decay", last),
                    results.over_rows(metric, "weight-decay", second),
                ),
                0.0,
            )
            for metric, name in names.items()
        ]
        higher = [
            Check.above(
                f"syre: the {name} is higher than under weight decay in the last quarter",
                paired_estimate(
                    results.over_rows(metric, "syre", last),
                    results.over_rows(metric, "weight-decay", last),
                ),
                0.0,
            )
            for metric, name in names.items()
        ]
        return [*falls, *higher]

    def sentence(self, results: Results) -> str:
        """Return rank, symmetric pairs and return of each method, in the second and the last quarter."""
        parts = []
        for method in self.methods:
            rank, pairs, returns = (
                " to ".join(
                    shown(
                        estimate(results.over_rows(metric, method, quarter(results, n)).values()),
                        form,
                    )
                    for n in (1, 3)
                )
                for metric, form in ((RANK, ".1f"), (SYMMETRY, ".1f"), (RETURN, ".0f"))
            )
            parts.append(f"{method}: rank {rank}, symmetric pairs {pairs}, return {returns}")
        return f"from the second quarter of the run to the last, {'; '.join(parts)}"

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return return, rank, symmetric pairs and dead units over steps."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        def panel(title: str, metric: str, label: str) -> Panel:
            lines = tuple(
                results.line_over_steps(metric, method, style=style)
                for style, method in enumerate(self.methods, start=1)
            )
            return Panel(title, label, lines, from_zero=metric != RETURN)

        return [
            [
                panel("Episodes since the row before", RETURN, "return (sum of rewards)"),
                panel(f"Rank of {LAYER}, 256 units", RANK, "effective rank (directions)"),
            ],
            [
                panel(f"Symmetry of {LAYER}, 255 pairs", SYMMETRY, "symmetric pairs (number)"),
                panel(f"Units of {LAYER}", f"dead_fraction/{LAYER}", "dead units (share)"),
            ],
        ]
