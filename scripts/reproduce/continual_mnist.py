"""Fig. 11 of syre: rank and accuracy of a convolutional network on one permutation of MNIST after another.

The runs are those of the benchmark `permuted-mnist` with the same strong decay for weight decay and syre. The
rank is the effective rank of the last hidden layer on 512 test images of the task. Beside it, the degree of
symmetry: pairs of neighbouring neurons closer than a tenth of their layer's typical distance.

The criterion, stated before the runs of the figure. The plain arm is weight decay: its test accuracy on the
first task must be above 90 %. The claim holds if (1) the rank under weight decay falls below half of that
after the first task, (2) the rank under syre stays above 70 % of it, (3) weight decay loses a larger share of
the first task's test accuracy than syre, (4) syre loses under 2 % of the accuracy on the first permuted task,
and (5) its accuracy is higher than that of weight decay; each by the 95 % interval, paired by seed, of the
mean over the last three tasks. The first task is that of the unpermuted images, which suits convolutions
better than all others: so (3) compares two losses that both contain this, and (4) begins with the second.

The paper gives no sizes or strengths. The network is the benchmark's (8 and 16 channels, 64 hidden units;
SGD with momentum, one epoch a task). The strength is the one in the benchmark's search (docs/results.md, seed
1000, 15 tasks) with which weight decay costs most rank while syre costs little accuracy: 0.01, with sigma 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.report.statistics import estimate, paired_estimate
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.figure import SYRE, Figure, figure
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from plasticity.scripts.report.panels import Panel

LAYER = "fc1"
"""Last hidden layer."""

RANK, SYMMETRY, ACCURACY = f"effective_rank/{LAYER}", f"degree_of_symmetry/{LAYER}", "test_accuracy"

FIRST, PERMUTED, LAST = slice(0, 1), slice(1, 2), slice(-3, None)
"""Rows of the first task, of the first permuted one, and of the last three."""

MIN_ACCURACY = 0.9
"""Test accuracy on the first task that the plain arm must exceed."""

COLLAPSED, LASTING, NO_LOSS = 0.5, 0.7, 0.98
"""Shares: of the rank that weight decay ends below, of the rank and of the accuracy that syre ends above."""

DECAY: dict[str, float] = {"strength": 0.01}


@figure("continual-mnist")
class ContinualMnist(Figure):
    """Rank, symmetry and accuracy over tasks."""

    paper = SYRE
    number = "Fig. 11"
    claim = (
        "under a strong decay, rank and accuracy fall from task to task without a random point, and stay"
        " with syre"
    )
    config = with_values(
        replace(BENCHMARKS["permuted-mnist"].config, benchmark="continual-mnist"),
        {"tracking.metrics": ("effective_rank", "dead_fraction", "degree_of_symmetry")},
    )
    methods = ("none", "weight-decay", "syre")
    minutes = 10.0
    mitigations: ClassVar = {"weight-decay": DECAY, "syre": {**DECAY, "sigma": 1.0}}
    scales: ClassVar = {
        "small": {"stream.num_tasks": 10, "agent.train_evaluation_size": 1000},
        "full": {"stream.num_tasks": 50, "agent.train_evaluation_size": 10_000},
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return an arm for each method."""
        return [Arm(method) for method in self.methods]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that weight decay learns the first task."""
        learnt = estimate(results.over_rows(ACCURACY, "weight-decay", FIRST).values())
        statement = (
            f"weight decay learns: its accuracy on the first task is above {MIN_ACCURACY:.0%}"
        )
        return [Check.above(statement, learnt, MIN_ACCURACY)]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check what falls under weight decay, and what stays under syre."""

        def kept(metric: str, method: str, first: slice = FIRST) -> dict[int, float | None]:
            return results.kept(metric, method, first, LAST)

        syre, decay = (
            results.over_rows(ACCURACY, method, LAST) for method in ("syre", "weight-decay")
        )
        return [
            Check.below(
                f"weight decay: the rank falls below {COLLAPSED:.0%} of that after the first task",
                estimate(kept(RANK, "weight-decay").values()),
                COLLAPSED,
            ),
            Check.above(
                f"syre: the rank stays above {LASTING:.0%} of it",
                estimate(kept(RANK, "syre").values()),
                LASTING,
            ),
            Check.above(
                "syre keeps a larger share of the first task's accuracy than weight decay",
                paired_estimate(kept(ACCURACY, "syre"), kept(ACCURACY, "weight-decay")),
                0.0,
            ),
            Check.above(
                f"syre keeps {NO_LOSS:.0%} of the accuracy on the first permuted task",
                estimate(kept(ACCURACY, "syre", PERMUTED).values()),
                NO_LOSS,
            ),
            Check.above(
                "syre ends with a higher accuracy than weight decay",
                paired_estimate(syre, decay),
                0.0,
            ),
        ]

    def sentence(self, results: Results) -> str:
        """Return rank, symmetric pairs and accuracy of each method, at first and in the end."""
        parts = []
        for method in self.methods:
            ends = {
                metric: [
                    shown(estimate(results.over_rows(metric, method, rows).values()), form)
                    for rows in (FIRST, LAST)
                ]
                for metric, form in ((RANK, ".1f"), (SYMMETRY, ".1f"), (ACCURACY, ".3f"))
            }
            parts.append(
                f"{method}: rank {' to '.join(ends[RANK])}, symmetric pairs"
                f" {' to '.join(ends[SYMMETRY])}, accuracy {' to '.join(ends[ACCURACY])}"
            )
        return f"from the first task to the last three, {'; '.join(parts)}"

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return accuracy, rank, symmetric pairs and dead units over tasks."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        def panel(title: str, metric: str, label: str) -> Panel:
            lines = tuple(
                results.line_over_steps(metric, method, style=style)
                for style, method in enumerate(self.methods)
            )
            return Panel(title, label, lines, from_zero=metric != ACCURACY)

        return [
            [
                panel("Test set of the task", ACCURACY, "accuracy (share)"),
                panel(f"Rank of {LAYER}, 64 units", RANK, "effective rank (directions)"),
            ],
            [
                panel(f"Symmetry of {LAYER}, 63 pairs", SYMMETRY, "symmetric pairs (number)"),
                panel(f"Units of {LAYER}", f"dead_fraction/{LAYER}", "dead units (share)"),
            ],
        ]

    def draw(self, results: Results, caption: str) -> Drawing:
        """Draw the panels, over tasks."""
        from plasticity.scripts.report.panels import panels_figure  # noqa: PLC0415  (matplotlib)

        return panels_figure(self.panels(results), "task", caption)
