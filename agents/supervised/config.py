"""Training settings of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from plasticity.checks import require_integer, require_known, require_number
from plasticity.optim.kernels.step import KERNELS, Kernel

Optimizer = Literal["sgd", "adam", "adamw"]
"""Optimizers by their name in a configuration."""

Loss = Literal["cross-entropy", "squared-error"]
"""Losses by their name in a configuration."""

Precision = Literal["float32", "bf16"]
"""Precisions by their name in a configuration."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Training settings of a classifier.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range or a name is unknown.
    """

    optimizer: Optimizer = "sgd"
    """Optimizer, used for all tasks without a reset."""

    learning_rate: float = 0.01
    """Step size, above 0."""

    momentum: float = 0.0
    """Momentum of SGD, at least 0 and below 1; Adam and AdamW use their default betas."""

    batch_size: int = 64
    """Examples per step; the last batch of an epoch may be smaller."""

    epochs_per_task: int = 1
    """Passes over a task's training examples."""

    loss: Loss = "cross-entropy"
    """Training loss of tasks that request none. squared-error: the mean square of logits minus one-hot
    labels."""

    train_evaluation_size: int = 10_000
    """Number of training examples (the first ones) used to measure the training accuracy after a task."""

    precision: Precision = "float32"
    """Precision of the training steps. bf16: matrix products in bfloat16 (autocast); weights, loss and
    measurements after a task stay float32."""

    compile: bool = False
    """Whether to run the training step as one CUDA graph, or on a CPU, its forward pass through
    torch.compile, which is no faster there. The numbers agree only up to rounding."""

    kernel: Kernel = "eager"
    """Implementation of the optimizer's step and its decay. eager: torch's own. triton: kernels in Triton,
    for a CUDA device. triton-drawn: kernels that draw syre's anchors at every step and never store them,
    which needs contiguous weights (the MLP's, not the CNN's). The numbers agree up to rounding. With a
    kernel, runs are not stacked: the stack has a step of its own."""

    def __post_init__(self) -> None:
        require_known("optimizer", self.optimizer, get_args(Optimizer))
        require_known("loss", self.loss, get_args(Loss))
        require_known("precision", self.precision, get_args(Precision))
        require_known("kernel", self.kernel, KERNELS)
        if not isinstance(self.compile, bool):
            raise TypeError(f"compile must be True or False, not {self.compile!r}.")
        if require_number("learning_rate", self.learning_rate, minimum=0.0) == 0:
            raise ValueError("learning_rate must be above 0, not 0: nothing would be learned.")
        require_number("momentum", self.momentum, minimum=0.0, below=1.0)
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} applies to sgd only, not to {self.optimizer}: set it to 0."
            )
        for name in ("batch_size", "epochs_per_task", "train_evaluation_size"):
            require_integer(name, getattr(self, name), minimum=1)
