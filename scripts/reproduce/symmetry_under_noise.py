"""Fig. 10 of parameter symmetry: the degree of symmetry over the signal, the noise and the teacher.

Students are those of `teacher_student`: two-layer ReLU networks that learn a random teacher from fresh inputs
with SGD and weight decay. The inputs are scaled, the labels noisy, or the teacher is of another width; two
neurons are symmetric below a tenth of the mean distance at the start. The others are networks of two
attention layers that learn linear regression in context with AdamW: a prompt has examples of a linear map of
its own, and a query. There, a direction of a head is symmetric that neither queries nor keys use: an
eigenvalue of ``W_Q W_Qᵀ + W_K W_Kᵀ`` up to a tenth of the mean one at the start.

The criterion, stated before the runs of the figure. With the full signal and without noise students must have
an error below 5 % of the labels' mean square, and attention one below 80 % (predicting 0 has 100 %). The
claim holds if the symmetric share is higher (1) with the weakest signal than with the full one, (2) with the
most noise than without, (3) with the smallest teacher than with the largest, for students, and (4, 5) as (1)
and (2) for attention; by 95 % intervals of the difference, paired by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from plasticity import double_rotation_degree, symmetry_distances
from plasticity.checks import require_integer, require_known
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureTracking
from plasticity.scripts.reproduce.figure import PARAMETER_SYMMETRY, Figure, figure
from plasticity.scripts.reproduce.network_experiment import NetworkFigureConfig
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.teacher_student import Students, StudentTraining, TeacherData
from plasticity.scripts.reproduce.verdict import Check, shown
from plasticity.tasks.synthetic.in_context_regression import regression_prompts

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import Panel

TEACHER, IN_CONTEXT = "teacher", "in-context"

UNUSED = 0.1
"""Eigenvalue up to which a direction of a head is symmetric, in units of the mean one at the start."""

NUM_PROBES = 1024


@dataclass(frozen=True, kw_only=True)
class NoisyData(TeacherData):
    """Labels of a teacher, or prompts of linear regression; noise and scale are those of either.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_steps: int = 2000
    """Steps of a run, each on a batch of its own. It ends with the first row of metrics at or past it."""

    problem: str = TEACHER
    """Problem that is learnt: teacher, or in-context (regression)."""

    input_dim: int = 8
    """Dimension of the inputs, which have a standard deviation of 1."""

    num_examples: int = 12
    """Examples of a prompt before its query."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("problem", self.problem, (TEACHER, IN_CONTEXT))
        require_integer("num_examples", self.num_examples, minimum=1)


@dataclass(frozen=True, kw_only=True)
class NoisyTraining(StudentTraining):
    """Settings of the network.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    width: int = 32
    """Hidden units of a student; size of a token in attention."""

    num_heads: int = 2
    """Heads of an attention layer, which divide the width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("num_heads", self.num_heads, minimum=1)
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide width={self.width}.")


@dataclass(frozen=True, kw_only=True)
class SymmetryUnderNoiseConfig(NetworkFigureConfig):
    """Configuration of one network."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.symmetry_under_noise:NoisyNetworks"

    stream: NoisyData = field(default_factory=NoisyData)
    """Data that the network learns."""

    agent: NoisyTraining = field(default_factory=NoisyTraining)
    """Settings of the network."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=500))
    """Measurements along the way."""


class InContextNetwork(nn.Module):
    """Two residual attention layers between linear ones, without biases; the output is read at the query.

    Args:
        token_dim: Entries of a token.
        width: Size of a token inside.
        num_heads: Heads of either layer.
    """

    def __init__(self, token_dim: int, width: int, num_heads: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(token_dim, width, bias=False)
        self.layers = nn.ModuleList(
            [
                nn.MultiheadAttention(width, num_heads, bias=False, batch_first=True)
                for _ in range(2)
            ]
        )
        self.output = nn.Linear(width, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return predictions of the queries. Shape: (prompts, tokens, token_dim) to (prompts,)."""
        features = self.embedding(tokens)
        for layer in self.layers:
            features = features + layer(features, features, features, need_weights=False)[0]
        predictions: Tensor = self.output(features[:, -1]).squeeze(1)
        return predictions


class NoisyNetworks(Students):
    """Student of a teacher, or an attention network that learns regression in context."""

    @property
    def _is_student(self) -> bool:
        return bool(self.config.stream.problem == TEACHER)

    def make_network(self) -> nn.Module:
        """Return the network, and make the teacher or the prompts of the measurements."""
        if self._is_student:
            return super().make_network()
        stream, agent = self.config.stream, self.config.agent
        self.probe_prompts = self._prompts("probe", NUM_PROBES, label_noise=0.0)
        network = InContextNetwork(stream.input_dim + 1, agent.width, agent.num_heads)
        self.initial = {name: each.mean() for name, each in self._eigenvalues(network).items()}
        return network

    def _prompts(self, name: str, count: int, label_noise: float) -> tuple[Tensor, Tensor]:
        """Return scaled prompts, and the labels of their queries; the noise is that of scaled labels."""
        stream = self.config.stream
        tokens, labels = regression_prompts(
            count,
            stream.num_examples,
            stream.input_dim,
            self.generator(name),
            label_noise=label_noise,
        )
        return stream.input_scale * tokens, stream.input_scale * labels

    @staticmethod
    def _eigenvalues(network: nn.Module) -> Mapping[str, Tensor]:
        """Return the eigenvalues of every head. Shape of each: (num_heads, head_dim)."""
        return symmetry_distances(network, pairs=[])

    def loss(self) -> Tensor:
        """Return the mean squared error on a fresh batch."""
        if self._is_student:
            return super().loss()
        stream = self.config.stream
        name = f"batch/{self.steps}"
        tokens, labels = self._prompts(name, stream.batch_size, stream.label_noise)
        errors: Tensor = self.network(tokens) - labels
        return errors.square().mean()

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return the error without noise, and the symmetric share of pairs of neurons, or of directions."""
        if self._is_student:
            return super().measure(run)
        tokens, labels = self.probe_prompts
        error = (self.network(tokens) - labels).square().mean() / labels.square().mean()
        found = self._eigenvalues(self.network)
        unused = [
            double_rotation_degree(each, UNUSED, reference=self.initial[name].to(each.device))
            / each.shape[-1]
            for name, each in found.items()
        ]
        return {
            "error": error.item(),
            "symmetric_share": torch.stack(unused).float().mean().item(),
        }


FULL_SIGNAL = {"input-scale": 1.0, "label-noise": 0.0, "teacher-width": 8}
"""Settings that the others differ from in one."""

SWEEPS: dict[str, tuple[float, ...]] = {
    "input-scale": (0.1, 0.3, 1.0),
    "label-noise": (0.0, 1.0, 2.0),
    "teacher-width": (1, 2, 8, 16),
}
"""Values of each setting that is varied."""

PROBLEMS: dict[str, dict[str, Any]] = {
    TEACHER: {"optimizer": "sgd", "learning-rate": 0.1, "weight-decay.strength": 0.03},
    IN_CONTEXT: {"optimizer": "adamw", "input-dim": 4, "weight-decay.strength": 0.5},
}
"""Settings of the two problems."""

EXPECTED = [
    (TEACHER, "input-scale", 0, -1),
    (TEACHER, "label-noise", -1, 0),
    (TEACHER, "teacher-width", 0, -1),
    (IN_CONTEXT, "input-scale", 0, -1),
    (IN_CONTEXT, "label-noise", -1, 0),
]
"""Problem and setting, and the values at which more and less symmetry is expected."""

MAX_ERRORS = {TEACHER: 0.05, IN_CONTEXT: 0.8}
"""Errors with the full signal that networks must be below."""


@figure("symmetry-under-noise")
class SymmetryUnderNoise(Figure):
    """Symmetric share over the signal, the noise and the teacher's width."""

    paper = PARAMETER_SYMMETRY
    number = "Fig. 10"
    claim = "weaker signal, more noise, simpler teacher: more symmetry"
    config = SymmetryUnderNoiseConfig(benchmark="symmetry-under-noise")
    methods = ("weight-decay",)
    minutes = 4.0
    scales: ClassVar = {
        "small": {},
        "full": {
            "stream.num_steps": 100_000,
            "stream.num_examples": 40,
            "stream.batch_size": 256,
            "agent.width": 256,
            "agent.num_heads": 4,
            "tracking.measure_every": 5000,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return an arm for each value of each setting, of both problems; they share the full signal."""
        arms = []
        for problem, option, *_ in EXPECTED:
            for value in SWEEPS[option]:
                point = FULL_SIGNAL | {option: value}
                arm = Arm(
                    "weight-decay", {"problem": problem, **PROBLEMS[problem], **point}, problem
                )
                if arm not in arms:
                    arms.append(arm)
        return arms

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that both learn with the full signal."""
        return [
            Check.below(
                f"{problem}: the error with the full signal is below {most}",
                results.estimate("error", problem, FULL_SIGNAL),
                most,
            )
            for problem, most in MAX_ERRORS.items()
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check that each setting makes networks more symmetric at one of its ends."""
        checks = []
        for problem, option, more, less in EXPECTED:
            values = SWEEPS[option]
            found = results.difference(
                "symmetric_share",
                problem,
                FULL_SIGNAL | {option: values[more]},
                FULL_SIGNAL | {option: values[less]},
            )
            text = f"{problem}: more symmetry at {option} {values[more]:g} than at {values[less]:g}"
            checks.append(Check.above(text, found, 0.0))
        return checks

    def sentence(self, results: Results) -> str:
        """Return the shares at both ends of each setting."""
        parts = []
        for problem, option, *_ in EXPECTED:
            ends = (SWEEPS[option][0], SWEEPS[option][-1])
            first, last = (
                shown(
                    results.estimate("symmetric_share", problem, FULL_SIGNAL | {option: value}),
                    ".2f",
                )
                for value in ends
            )
            parts.append(f"{problem}, {option} {ends[0]:g} and {ends[1]:g}: {first} and {last}")
        return f"symmetric share with {'; '.join(parts)}"

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return the symmetric share, and the error, over each setting."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        labels = {
            "input-scale": "scale of the inputs",
            "label-noise": "noise on the labels (standard deviation)",
            "teacher-width": "width of the teacher",
        }

        def panel(option: str, metric: str, title: str, label: str) -> Panel:
            others = {name: value for name, value in FULL_SIGNAL.items() if name != option}
            problems = [problem for problem, varied, *_ in EXPECTED if varied == option]
            return Panel(
                title,
                label,
                tuple(
                    results.line_over(option, metric, problem, others, style=style)
                    for style, problem in enumerate(problems)
                ),
                from_zero=True,
                x_label=labels[option],
                log_x=option != "label-noise",
            )

        share = "symmetric pairs or directions"
        error = "error (of the labels' mean square)"
        return [
            [panel(option, "symmetric_share", "Symmetry", share) for option in SWEEPS],
            [panel(option, "error", "Without noise", error) for option in SWEEPS],
        ]
