"""Training settings of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from plasticity.checks import (
    require_betas,
    require_bool,
    require_integer,
    require_known,
    require_number,
)
from plasticity.optim.kernels.step import KERNELS, Kernel

Optimizer = Literal["sgd", "adam", "adamw", "muon", "soap"]
"""Optimizers by their name in a configuration."""

Loss = Literal["cross-entropy", "squared-error"]
"""Losses by their name in a configuration."""

OutputLayer = Literal["kept", "zeroed"]
"""Treatments of the output layer when a task begins, by their name in a configuration."""

Precision = Literal["float32", "bf16"]
"""Precisions by their name in a configuration."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Training settings of a classifier.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range or a name is unknown.

    Examples:
        >>> ClassifierConfig(learning_rate=0.1).learning_rate
        0.1
    """

    optimizer: Optimizer = "sgd"
    """Optimizer, used for all tasks without a reset. muon: torch's for the hidden matrices, of step sizes as
    AdamW's, and AdamW for the rest, convolutions included. soap: of the package pytorch-optimizer (the extra
    "optimizers"). Runs with one of these two are not stacked."""

    learning_rate: float = 0.01
    """Step size, above 0."""

    learning_rate_drops: tuple[int, ...] = ()
    """Epochs of each task, counted from 0, from which on the learning rate is multiplied by
    `learning_rate_factor` once more. The next task begins with the full one again."""

    learning_rate_factor: float = 0.2
    """Factor of the learning rate at each of its drops, at least 0."""

    momentum: float = 0.0
    """Momentum of SGD, at least 0 and below 1; that of Muon is 0.95."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Betas of Adam, AdamW and SOAP, each at least 0 and below 1. Equal ones, such as 0.99 0.99, bound each
    step by the learning rate, also after a change of the task (Dohare et al., 2024); SOAP's authors use
    0.95 0.95."""

    epsilon: float = 1e-8
    """Epsilon of Adam, AdamW and SOAP, added to the root of the second moment."""

    batch_size: int = 64
    """Examples per step; the last batch of an epoch may be smaller."""

    epochs_per_task: int = 1
    """Passes over a task's training examples."""

    output_layer: OutputLayer = "kept"
    """Treatment of the output layer when a task begins. kept: it stays. zeroed: weights and biases become
    0, from task 0 on, whatever the method; momentum stays (Dohare et al., 2024, continual ImageNet). So
    the learner is given the moment at which a task begins, as a part of the benchmark; the mitigation
    head-reset is a new output layer as a method."""

    keep_best: bool = False
    """Whether a network is at the end of a task what it was after the epoch with the highest accuracy on the
    task's examples for validation, the first of several. The optimizer's state is that of the last step."""

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
        require_bool("compile", self.compile)
        if require_number("learning_rate", self.learning_rate, minimum=0.0) == 0:
            raise ValueError("learning_rate must be above 0, not 0: nothing would be learned.")
        require_known("output_layer", self.output_layer, get_args(OutputLayer))
        require_bool("keep_best", self.keep_best)
        require_number("momentum", self.momentum, minimum=0.0, below=1.0)
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} applies to sgd only, not to {self.optimizer}: set it to 0."
            )
        require_betas("betas", self.betas)
        require_number("epsilon", self.epsilon, minimum=0.0)
        for name in ("betas", "epsilon"):
            if self.optimizer == "sgd" and getattr(self, name) != getattr(ClassifierConfig, name):
                raise ValueError(
                    f"{name}={getattr(self, name)} does not apply to sgd: leave it out, or choose adam."
                )
        if self.optimizer == "soap" and self.compile:
            raise ValueError(
                "soap counts its steps in Python, which a compiled step holds fixed: leave compile out."
            )
        for name in ("batch_size", "epochs_per_task", "train_evaluation_size"):
            require_integer(name, getattr(self, name), minimum=1)
        self._check_drops()

    def _check_drops(self) -> None:
        require_number("learning_rate_factor", self.learning_rate_factor, minimum=0.0)
        drops = self.learning_rate_drops
        if not isinstance(drops, tuple):
            raise TypeError(f"learning_rate_drops must be a tuple of epochs, not {drops!r}.")
        for epoch in drops:
            require_integer("an epoch of learning_rate_drops", epoch, minimum=1)
        if list(drops) != sorted(set(drops)):
            raise ValueError(
                f"learning_rate_drops must be epochs in ascending order, each once, not {drops}."
            )
        if drops and drops[-1] >= self.epochs_per_task:
            raise ValueError(
                f"learning_rate_drops has {drops[-1]}, which never comes, as a task has"
                f" {self.epochs_per_task} epochs: give epochs below {self.epochs_per_task}, or none."
            )

    def learning_rate_share(self, epoch: int) -> float:
        """Return the learning rate in an epoch of a task, relative to `learning_rate`."""
        return self.learning_rate_factor ** sum(epoch >= drop for drop in self.learning_rate_drops)
