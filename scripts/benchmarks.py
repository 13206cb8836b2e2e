"""Which stream meets which agent, with which defaults; and the methods that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plasticity.agents.classifier import ClassifierConfig
from plasticity.agents.networks import NetworkConfig


@dataclass(frozen=True)
class Method:
    """One way to keep a network plastic."""

    regularizer: str
    """Of the optimizer: "none", "weight-decay", "syre", "l2-init"."""

    description: str
    """One line for `plasticity list`."""

    uses_strength: bool = True
    """Whether a strength means anything to it."""

    uses_sigma: bool = False
    """Whether an anchor is drawn."""

    shifts: bool = False
    """Start from weights moved by the anchor, without a decay: a control."""


METHODS: dict[str, Method] = {
    "none": Method("none", "the plain optimizer", uses_strength=False),
    "weight-decay": Method("weight-decay", "decay toward zero, torch's weight_decay"),
    "syre": Method(
        "syre", "decay toward a random anchor: removes symmetries (Ziyin 2025)", uses_sigma=True
    ),
    "l2-init": Method("l2-init", "decay toward the initial weights (Kumar 2023)"),
    "shift": Method(
        "none",
        "syre's shift without its decay: a control that removes no symmetry (Prop. 1)",
        uses_strength=False,
        uses_sigma=True,
        shifts=True,
    ),
}
"""The methods, by the name that `--methods` takes."""


@dataclass(frozen=True)
class Benchmark:
    """A stream, an agent, and the settings that they are run with by default."""

    description: str
    """One line for `plasticity list`."""

    dataset: str
    """Which images the stream permutes."""

    num_tasks: int
    """Tasks of a run, by default."""

    seeds: tuple[int, ...]
    """Seeds of a run, by default."""

    methods: tuple[str, ...]
    """Methods of a run, by default."""

    strengths: Mapping[str, float]
    """Each method's own best strength, of the recorded search."""

    sigma: float
    """Syre's best sigma, of the same search."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Shape of the network."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """How it is trained."""

    probe_size: int = 512
    """Test images that the metrics are measured on."""


_MNIST = Benchmark(
    description="MNIST, its pixels permuted anew for every task (syre, Fig. 11)",
    dataset="mnist",
    num_tasks=50,
    seeds=(0, 1, 2),
    methods=("none", "weight-decay", "syre", "l2-init"),
    strengths={"weight-decay": 1e-3, "syre": 3e-3, "l2-init": 3e-3},
    sigma=1.0,
    classifier=ClassifierConfig(learning_rate=0.01, momentum=0.9),
)


def _like_mnist(description: str, dataset: str) -> Benchmark:
    return Benchmark(
        description=description,
        dataset=dataset,
        num_tasks=_MNIST.num_tasks,
        seeds=_MNIST.seeds,
        methods=_MNIST.methods,
        strengths=_MNIST.strengths,
        sigma=_MNIST.sigma,
        network=_MNIST.network,
        classifier=_MNIST.classifier,
    )


BENCHMARKS: dict[str, Benchmark] = {
    "permuted-mnist": _MNIST,
    "permuted-fashion": _like_mnist(
        "Fashion-MNIST, permuted; the settings of permuted-mnist", "fashion-mnist"
    ),
    "permuted-digits": Benchmark(
        description="scikit-learn's 8 x 8 digits, permuted; needs no download, two minutes",
        dataset="digits",
        num_tasks=30,
        seeds=(0, 1, 2),
        methods=("none", "weight-decay", "syre"),
        strengths={"weight-decay": 1e-3, "syre": 3e-3, "l2-init": 1e-2},
        sigma=0.5,
        classifier=ClassifierConfig(
            learning_rate=0.01, momentum=0.9, batch_size=32, epochs_per_task=10
        ),
        probe_size=256,
    ),
    "permuted-images": _like_mnist(
        "any folder of files named as MNIST's (--data-dir); the settings of permuted-mnist",
        "images",
    ),
}
"""The benchmarks, by name."""
