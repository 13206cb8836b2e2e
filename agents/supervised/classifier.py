"""Classifier that is trained on one task after another.

One optimizer and one network go through the whole stream; nothing is reset at task boundaries. The inner loop
never waits for the device: sums stay on it and are read once per task.

Regardless of the precision of the training steps, weights, optimizer and decay are float32, and measurements
after a task are made in float32, so that results of both precisions are comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.agents.execution.compiled import CompiledStep, load_optimizer, optimizer_constants
from plasticity.checks import nearest, require_integer, require_number
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings
from plasticity.seeds import child_seed

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""Optimizer classes by their name in a configuration."""

STEPS_COUNTED_AT_ONCE = 32
"""Number of steps whose logits are kept before they are counted in the online accuracy."""

LOSSES = ("cross-entropy", "squared-error")
"""Losses by their name in a configuration."""

PRECISIONS = ("float32", "bf16")
"""Precisions by their name in a configuration."""


class Task(Protocol):
    """Interface of a task: batches of images and labels."""

    @property
    def index(self) -> int:
        """Position in the stream, from 0."""

    @property
    def num_train(self) -> int:
        """Number of training examples."""

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (batch, channels, height, width) and labels (batch,) at these indices."""

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the test set in batches, without shuffling."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Training settings of a classifier.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range or a name is unknown.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer, used for all tasks without a reset."""

    learning_rate: float = 0.01
    """Step size, above 0."""

    momentum: float = 0.0
    """Momentum of SGD, at least 0 and below 1; Adam and AdamW use their default betas."""

    batch_size: int = 64
    """Examples per step; the last batch of an epoch may be smaller."""

    epochs_per_task: int = 1
    """Passes over a task's training examples."""

    loss: Literal["cross-entropy", "squared-error"] = "cross-entropy"
    """Training loss. squared-error: the mean square of logits minus one-hot labels."""

    train_evaluation_size: int = 10_000
    """Number of training examples (the first ones) used to measure the training accuracy after a task."""

    precision: Literal["float32", "bf16"] = "float32"
    """Precision of the training steps. bf16: matrix products in bfloat16 (autocast); weights, loss and
    measurements after a task stay float32."""

    compile: bool = False
    """Whether to run the training step as one CUDA graph, or on a CPU, its forward pass through
    torch.compile, which is no faster there. The numbers agree only up to rounding."""

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"Unknown optimizer {self.optimizer!r}.{nearest(self.optimizer, OPTIMIZERS)}"
            )
        if self.loss not in LOSSES:
            raise ValueError(f"Unknown loss {self.loss!r}.{nearest(self.loss, LOSSES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"Unknown precision {self.precision!r}.{nearest(str(self.precision), PRECISIONS)}"
            )
        if not isinstance(self.compile, bool):
            raise TypeError(f"compile must be True or False, not {self.compile!r}.")
        if require_number("learning_rate", self.learning_rate, minimum=0.0) == 0:
            raise ValueError("learning_rate must be above 0, not 0: nothing would be learned.")
        require_number("momentum", self.momentum, minimum=0.0, below=1.0)
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} applies to sgd only, not to {self.optimizer}: give momentum 0."
            )
        for name in ("batch_size", "epochs_per_task", "train_evaluation_size"):
            require_integer(name, getattr(self, name), minimum=1)


class Classifier:
    """Network, its optimizer, and their position in the stream.

    Args:
        network: Network that maps images (batch, channels, height, width) to logits (batch, classes). It is
            moved to the device.
        config: Training settings.
        regularizer: Regularizer of every layer except normalization layers.
        data_order_seed: Seed of the data order, which depends only on the seed, the task and the epoch.
        device: Device of the network: "cpu", "cuda", "mps", …

    Raises:
        ValueError: if the configuration compiles, and the device is neither CPU nor CUDA.
    """

    def __init__(
        self,
        network: nn.Module,
        config: ClassifierConfig,
        regularizer: RegularizerSettings,
        *,
        data_order_seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.network = network.to(device)
        self.config = config
        self.device = torch.device(device)
        self.optimizer = make_optimizer(self.network, config, regularizer)
        self._compiled = self._compile() if config.compile else None
        self._data_order_seed = data_order_seed
        self._step = 0
        self._task_steps = 1
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._online_correct = torch.zeros((), dtype=torch.int64, device=device)
        # float32 sums over a long task lose digits, but mps has no wider dtype
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        self._loss_sum = torch.zeros((), dtype=wide, device=device)

    def train(self, task: Task, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train on one task, or continue it after a stop.

        Args:
            task: The task; after a stop, pass the same one again.
            should_stop: Called before every step; True leaves the task unfinished.

        Returns:
            Whether the task is finished.

        Raises:
            ValueError: if the batch size exceeds the number of training examples.
        """
        batch_size, epochs = self.config.batch_size, self.config.epochs_per_task
        if batch_size > task.num_train:
            raise ValueError(
                f"batch_size={batch_size} is larger than the task's {task.num_train} training"
                " examples: give a smaller one."
            )
        self.network.train()
        steps_per_epoch = -(-task.num_train // batch_size)
        self._task_steps = epochs * steps_per_epoch
        while self._step < self._task_steps:
            epoch, first = divmod(self._step, steps_per_epoch)
            batches = torch.split(self._epoch_data_order(task, epoch), batch_size)
            for indices in batches[first:]:
                if should_stop():
                    return False
                self._train_step(*task.train_batch(indices))
                self._step += 1
        return True

    @property
    def task_progress(self) -> float:
        """Share of the current task's steps that are done, 0 to 1."""
        return self._step / self._task_steps

    def _epoch_data_order(self, task: Task, epoch: int) -> Tensor:
        # Drawn on the CPU, so that the data order is the same on every device.
        generator = torch.Generator()
        generator.manual_seed(child_seed(self._data_order_seed, f"{task.index}/{epoch}"))
        return torch.randperm(task.num_train, generator=generator).to(self.device)

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        # Chosen at each step: storing the bound method in self would create a reference cycle, so that
        # the object and its memory would be freed late.
        learn = self._compiled or self._learn_eagerly
        loss, logits = learn(images, labels)
        # Online accuracy: the logits are those before the update. Counted for many steps at once, because
        # the few tiny operations for each step cost as much as a layer.
        self._pending.append((logits, labels, loss * labels.shape[0]))
        if len(self._pending) == STEPS_COUNTED_AT_ONCE:
            self._count_pending()

    def _learn_eagerly(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        loss, logits = self._forward(images, labels)
        self._update(loss)
        return loss.detach(), logits.detach()

    def _compile(self) -> CompiledStep:
        # Only images and labels are inputs: how they are produced differs from task to task.
        return CompiledStep(
            self._forward,
            self._update,
            device=self.device,
            constants=lambda: optimizer_constants(self.optimizer),
        )

    def _forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        in_bf16 = self.config.precision == "bf16"
        logits = self._logits_in_bf16(images) if in_bf16 else self.network(images)
        return self._loss(logits, labels), logits

    def _logits_in_bf16(self, images: Tensor) -> Tensor:
        # Every weight is used once, so caching its bfloat16 copy would gain nothing.
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            logits: Tensor = self.network(images)
        return logits.float()

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()

    def _count_pending(self) -> None:
        if not self._pending:
            return
        logits, labels, losses = zip(*self._pending, strict=True)
        self._online_correct += (torch.cat(logits).argmax(dim=-1) == torch.cat(labels)).sum()
        self._loss_sum += torch.stack(losses).to(self._loss_sum.dtype).sum()
        self._pending.clear()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.loss == "cross-entropy":
            return functional.cross_entropy(logits, labels)
        # Not functional.one_hot, which reads the labels on the host.
        one_hot = torch.zeros_like(logits).scatter_(-1, labels.unsqueeze(-1), 1.0)
        return functional.mse_loss(logits, one_hot)

    def finish(self, task: Task) -> dict[str, float | bool]:
        """Measure a task that `train` has finished, and prepare for the next one.

        Args:
            task: The finished task.

        Returns:
            `test_accuracy` and `train_accuracy` after the task, `online_accuracy` (each example before the
            update that uses it) and `train_loss` over the task, all averaged over examples, and `diverged`:
            whether a loss was not finite.
        """
        self._count_pending()
        examples = task.num_train * self.config.epochs_per_task
        first = torch.arange(
            min(self.config.train_evaluation_size, task.num_train), device=self.device
        )
        train_batches = (task.train_batch(indices) for indices in torch.split(first, 1000))
        train_accuracy, _ = self._evaluate(train_batches)
        test_accuracy, test_loss = self._evaluate(task.test_batches(1000))
        online_accuracy = self._online_correct.to(self._loss_sum.dtype) / examples
        train_loss = self._loss_sum / examples
        host = torch.stack(
            [
                number.to(train_loss.dtype)
                for number in (
                    test_accuracy,
                    train_accuracy,
                    online_accuracy,
                    train_loss,
                    test_loss,
                )
            ]
        ).cpu()
        test, train, online, loss, _ = host.tolist()
        self._step = 0
        self._online_correct.zero_()
        self._loss_sum.zero_()
        return {
            "test_accuracy": test,
            "train_accuracy": train,
            "online_accuracy": online,
            "train_loss": loss,
            "diverged": not bool(host.isfinite().all()),
        }

    @torch.no_grad()
    def _evaluate(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return accuracy and mean loss, as tensors on the device."""
        self.network.eval()
        correct = torch.zeros_like(self._online_correct)
        loss = torch.zeros_like(self._loss_sum)
        examples = 0
        for images, labels in batches:
            logits = self.network(images)
            correct += (logits.argmax(dim=-1) == labels).sum()
            loss += self._loss(logits, labels) * labels.shape[0]
            examples += labels.shape[0]
        return correct.to(loss.dtype) / examples, loss / examples

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, except the task itself."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self._step,
            "task_steps": self._task_steps,
            # Saved separately instead of being counted early: rounding depends on the order of a sum.
            "pending": list(self._pending),
            "online_correct": self._online_correct,
            "loss_sum": self._loss_sum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`, saved on any device."""
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self._compiled is not None:
            self._compiled.forget()  # the loaded state is in other tensors
        self._step = state["step"]
        self._task_steps = state["task_steps"]
        self._pending = [
            (logits.to(self.device), labels.to(self.device), loss.to(self.device))
            for logits, labels, loss in state["pending"]
        ]
        self._online_correct.copy_(state["online_correct"])
        self._loss_sum.copy_(state["loss_sum"])


def make_optimizer(
    network: nn.Module, config: ClassifierConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer:
    """Create the configured optimizer over all parameters of a network."""
    groups = parameter_groups(
        network,
        regularizer=regularizer.regularizer,
        strength=regularizer.strength,
        sigma=regularizer.sigma,
        anisotropy=regularizer.anisotropy,
        decoupled=regularizer.decoupled,
        anchor_seed=regularizer.anchor_seed,
    )
    extra: dict[str, Any] = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    device = next(network.parameters()).device.type
    # One kernel instead of a few per tensor, where torch supports it.
    extra["fused"] = device in ("cpu", "cuda", "mps")
    if config.compile and device == "cuda" and config.optimizer != "sgd":
        extra["capturable"] = True
    optimizer_class = regularized(OPTIMIZERS[config.optimizer])
    return optimizer_class(groups, lr=config.learning_rate, **extra)
