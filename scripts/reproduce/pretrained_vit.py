"""Fig. 3 (left) of the position paper: the attention heads of pretrained transformers, by their weights.

A direction of a head is lost if an eigenvalue of ``W_Q W_Qᵀ + W_K W_Kᵀ`` is at most a hundredth of the head's
largest one: the number of these is its degree of double-rotation symmetry. The rank is the effective rank of
``W_Qᵀ W_K``, which is all that a head's weights of attention depend on. Nothing is trained or random: a step
of the run reads one file of weights that the user gives.

The criterion. Files of at least two widths are needed. The claim, that larger models are more symmetric than
they need to be, holds if (1) over a tenth of all directions are lost in the widest, and (2) a larger share
than in the narrowest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plasticity import (
    double_rotation_degree,
    effective_rank,
    query_key_weights,
    rotation_eigenvalues,
    split_heads,
)
from plasticity.checks import require_integer, require_number
from plasticity.scripts.probe.checkpoint import largest_state_dict
from plasticity.scripts.probe.loading import require_file
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureConfig, FigureStream, FigureTracking
from plasticity.scripts.reproduce.experiment import FigureExperiment
from plasticity.scripts.reproduce.figure import PARAMETER_SYMMETRY, Figure, figure
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check

if TYPE_CHECKING:
    from plasticity.scripts.report.figures import Line, Panel
    from plasticity.scripts.report.run_folders import Run

MISSING = (
    "pretrained-vit measures weights of yours: give --weights FILE …, state dictionaries of vision"
    " transformers as in torchvision, timm or Hugging Face, by torch.save (.pt, .bin) or in .safetensors."
)


@dataclass(frozen=True, kw_only=True)
class PretrainedWeights(FigureStream):
    """Weights of transformers.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    weights: tuple[str, ...] = ()
    """Files of weights: state dictionaries of torchvision, timm or Hugging Face, by torch.save or in
    safetensors."""

    head_dim: int | None = None
    """Size of a head. None: 80 in a width of 1280 (ViT-H), else 64, as all published ViTs have."""

    threshold: float = 0.01
    """Share of a head's largest eigenvalue at which a direction counts as lost: of squared weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.weights, tuple) or not all(isinstance(n, str) for n in self.weights):
            raise TypeError(f"weights must be a tuple of paths, not {self.weights!r}.")
        if self.head_dim is not None:
            require_integer("head_dim", self.head_dim, minimum=1)
        require_number("threshold", self.threshold, minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(FigureConfig):
    """Configuration of one run over some files: a step is a file."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.pretrained_vit:PretrainedHeads"

    stream: PretrainedWeights = field(default_factory=PretrainedWeights)
    """Weights that are measured."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=1))
    """A row for each file."""

    @property
    def length(self) -> int:
        """Number of files."""
        return len(self.stream.weights)


def measured_heads(
    state: Mapping[str, Any], head_dim: int | None, threshold: float
) -> dict[str, float]:
    """Return the degree and the rank of every head of a state dictionary, numbered block by block.

    Args:
        state: State dictionary.
        head_dim: Size of a head; None as in `PretrainedWeights`.
        threshold: Share of a head's largest eigenvalue.

    Raises:
        ValueError: if there is no attention, or it cannot be split into heads of this size.
    """
    degrees: list[Tensor] = []
    ranks: list[Tensor] = []
    width = size = 0
    for query, key in query_key_weights(state).values():
        width = query.shape[1]
        size = head_dim or (80 if width == 1280 else 64)
        if len(query) % size:
            raise ValueError(
                f"{len(query)} queries are not of heads of {size} dimensions: give --head-dim."
            )
        queries, keys = (split_heads(each.float(), len(each) // size) for each in (query, key))
        values = rotation_eigenvalues(queries, keys)
        degrees.append(double_rotation_degree(values, threshold, reference=values[:, -1:]))
        # W_Qᵀ W_K has the singular values of R_Q R_Kᵀ, which is as small as the head.
        triangles = (torch.linalg.qr(each.mT, mode="r").R for each in (queries, keys))
        first, second = triangles
        ranks.append(effective_rank(first @ second.mT))
    lost, found = torch.cat(degrees).tolist(), torch.cat(ranks).tolist()
    return {
        "width": float(width),
        "head_dim": float(size),
        "lost_share": sum(lost) / (len(lost) * size),
        "rank_share": sum(found) / (len(found) * size),
        **{f"degree_{head}": float(each) for head, each in enumerate(lost, 1)},
        **{f"rank_{head}": each for head, each in enumerate(found, 1)},
    }


class PretrainedHeads(FigureExperiment):
    """Files of weights, one after another."""

    def begin(self) -> None:
        """Measure nothing yet."""
        self.found: dict[str, float] = {}

    def step(self) -> None:
        """Measure the heads of the next file."""
        stream = self.config.stream
        file = Path(stream.weights[self.steps])
        try:
            state = largest_state_dict(file)
            self.found = measured_heads(state, stream.head_dim, stream.threshold)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def measure(self, run: int) -> dict[str, float | None]:
        """Return the degree and the rank of every head."""
        return dict(self.found)

    def state(self, run: int) -> dict[str, Any]:
        """Return nothing: a row depends on its file alone."""
        return {}

    def load(self, run: int, state: Mapping[str, Any]) -> None:
        """Load nothing."""

    @staticmethod
    def require_runnable(configs: Sequence[Any]) -> None:
        """Raise a ValueError unless there are files."""
        for config in configs:
            if not config.stream.weights:
                raise ValueError(MISSING)
            for file in config.stream.weights:
                require_file(Path(file))


@figure("pretrained-vit")
class Pretrained(Figure):
    """Degree of double-rotation symmetry and rank of the heads of pretrained transformers."""

    paper = PARAMETER_SYMMETRY
    number = "Fig. 3 (left)"
    claim = "larger models are more symmetric than they need to be"
    config = PretrainedConfig(benchmark="pretrained-vit")
    methods = ("none",)
    scales: ClassVar = {"small": {}, "full": {}}
    minutes = 0.1
    requires = "--weights FILE …"
    num_seeds = 1
    min_seeds = 1

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return the only arm."""
        return [Arm("none")]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that there is something to compare."""
        widths = {row["width"] for row in _run(results).rows}
        figures = {"widths": float(len(widths)), "bound": 2.0}
        return [Check("there are weights of at least two widths", len(widths) > 1, figures)]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check the lost directions of the widest and of the narrowest model."""
        rows = sorted(_run(results).rows, key=lambda row: row["width"] or 0.0)
        narrowest, widest = (rows[n]["lost_share"] or 0.0 for n in (0, -1))
        return [
            Check(
                "the widest model has lost over a tenth of its directions",
                widest > 0.1,
                {"share": widest, "bound": 0.1},
            ),
            Check(
                "that is a larger share than in the narrowest",
                widest > narrowest,
                {"share": widest, "bound": narrowest},
            ),
        ]

    def sentence(self, results: Results) -> str:
        """Return the lost directions and the rank of each model."""
        return "; ".join(
            f"{name} (width {row['width']:g}): {row['lost_share']:.1%} of the directions lost, rank"
            f" {row['rank_share']:.1%} of its heads' dimensions"
            for name, row in zip(_names(results), _run(results).rows, strict=True)
        )

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return degree and rank of every head, and a line for each model."""
        from plasticity.scripts.report.figures import Panel  # noqa: PLC0415  (matplotlib)

        x_label = "position of the head (share of all, from input to output)"
        return [
            [
                Panel(title, label, _lines(results, kind), from_zero=True, x_label=x_label)
                for kind, title, label in (
                    ("degree", "Double rotation", "lost directions (share of the head)"),
                    ("rank", "Rank", "effective rank (share of the head)"),
                )
            ]
        ]


def _run(results: Results) -> Run:
    return results.runs("none")[0]


def _names(results: Results) -> list[str]:
    return [Path(each).stem for each in _run(results).config["stream"]["weights"]]


def _lines(results: Results, kind: str) -> tuple[Line, ...]:
    from plasticity.scripts.report.figures import Line  # noqa: PLC0415  (matplotlib)

    lines = []
    for style, (name, row) in enumerate(zip(_names(results), _run(results).rows, strict=True)):
        heads = sum(key.startswith("degree_") for key in row)
        found = [row[f"{kind}_{head}"] for head in range(1, heads + 1)]
        values = np.array(found, dtype=np.float64) / (row["head_dim"] or 1.0)
        where = np.arange(1, len(values) + 1) / len(values)
        nothing = np.full(len(values), np.nan)
        lines.append(
            Line(name, style, where, values, nothing, nothing, ((where, values),), (False,))
        )
    return tuple(lines)
