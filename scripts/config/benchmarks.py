"""Which stream meets which agent, with which defaults; and the methods that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from plasticity.agents.networks.image import NetworkConfig
from plasticity.agents.supervised.classifier import ClassifierConfig


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
    """Start from weights moved by the anchor, without a decay: a control, of the image benchmarks."""


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


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A stream, an agent, and the settings that they are run with by default."""

    description: str
    """One line for `plasticity list`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of a run, by default."""

    methods: tuple[str, ...]
    """Methods of a run, by default."""

    strengths: Mapping[str, float]
    """Each method's own best strength, of the recorded search."""

    sigma: float
    """Syre's best sigma, of the same search."""


@dataclass(frozen=True, kw_only=True)
class ImageBenchmark(Benchmark):
    """Permuted images, and a classifier."""

    dataset: str
    """Which images the stream permutes."""

    num_tasks: int
    """Tasks of a run, by default."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Shape of the network."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """How it is trained."""

    probe_size: int = 512
    """Test images that the metrics are measured on."""


@dataclass(frozen=True, kw_only=True)
class AntBenchmark(Benchmark):
    """An ant on changing ground, and PPO."""

    num_steps: int
    """Steps of a run, by default."""

    preset: str
    """Schedule of the friction, by default: a key of `plasticity.tasks.SCHEDULES`."""

    engine: str = "bullet"
    """The physics: a key of `plasticity.tasks.ENGINES`."""

    num_envs: int = 8
    """Environments that are stepped together."""

    agent: str = "standard"
    """Settings of the agent: a key of `plasticity.agents.PPO_PRESETS`."""


_MNIST = ImageBenchmark(
    description="MNIST, its pixels permuted anew for every task (syre, Fig. 11)",
    dataset="mnist",
    num_tasks=50,
    methods=("none", "weight-decay", "syre", "l2-init"),
    strengths={"weight-decay": 1e-3, "syre": 3e-3, "l2-init": 3e-3},
    sigma=1.0,
    classifier=ClassifierConfig(learning_rate=0.01, momentum=0.9),
)


def _like_mnist(description: str, dataset: str) -> ImageBenchmark:
    return ImageBenchmark(
        description=description,
        dataset=dataset,
        num_tasks=_MNIST.num_tasks,
        methods=_MNIST.methods,
        strengths=_MNIST.strengths,
        sigma=_MNIST.sigma,
        network=_MNIST.network,
        classifier=_MNIST.classifier,
    )


IMAGE_BENCHMARKS: dict[str, ImageBenchmark] = {
    "permuted-mnist": _MNIST,
    "permuted-fashion": _like_mnist(
        "Fashion-MNIST, permuted; the settings of permuted-mnist", "fashion-mnist"
    ),
    "permuted-digits": ImageBenchmark(
        description="scikit-learn's 8 x 8 digits, permuted; needs no download, two minutes",
        dataset="digits",
        num_tasks=30,
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
"""Those of permuted images, by name."""

_BULLET_ANT = AntBenchmark(
    description="PyBullet's ant, whose ground friction changes (syre, Fig. 6); PPO",
    methods=("none", "weight-decay", "syre"),
    # Of a search with one seed over 1e-4, 1e-3 and 1e-2; l2-init was not searched.
    strengths={"weight-decay": 1e-4, "syre": 1e-3, "l2-init": 1e-4},
    sigma=0.3,
    num_steps=2_000_000,
    preset="small",
)

# With the strengths of Bullet's ant: they were not searched again.
ANT_BENCHMARKS: dict[str, AntBenchmark] = {
    "slippery-ant": _BULLET_ANT,
    "slippery-ant-mujoco": replace(
        _BULLET_ANT,
        description="MuJoCo's ant on the CPU; schedule and agent of slippery-ant",
        engine="mujoco",
    ),
    "slippery-ant-warp": replace(
        _BULLET_ANT,
        description="MuJoCo's ants on the GPU, many runs at once; otherwise as slippery-ant-mujoco",
        engine="warp",
        num_envs=32,  # 64 could not share the 100,000 steps of the small schedule evenly
    ),
}
"""Those of ants, by name."""

BENCHMARKS: dict[str, Benchmark] = {**IMAGE_BENCHMARKS, **ANT_BENCHMARKS}
"""All benchmarks, by name."""
