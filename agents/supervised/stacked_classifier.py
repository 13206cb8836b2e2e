"""R stacked classifiers, trained at once with the same results as `Classifier` in separate runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.agents.execution.compiled import CompiledStep, GraphedFunction
from plasticity.agents.supervised.classifier import ClassifierConfig, make_optimizer
from plasticity.agents.supervised.stacked_data_orders import StackedDataOrders
from plasticity.optim.settings import RegularizerSettings
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import StackedNetworks, require_index

EVALUATION_BATCH = 250
"""Examples of each classifier evaluated at once; memory holds the activations of R times as many."""


class TaskGroup(Protocol):
    """Interface of R tasks at the same position in their streams."""

    @property
    def index(self) -> int:
        """Position in the streams, from 0."""

    @property
    def num_train(self) -> int:
        """Number of training examples of each task."""

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (R, batch, channels, height, width) and labels (R, batch) at indices (R, batch)."""

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the stacked test sets in batches, without shuffling."""


class StackedClassifier:
    """R stacked networks, their optimizers, and their position in their streams, which all share.

    Classifier i computes the same numbers as a `Classifier` with `networks[i]`, `regularizers[i]` and
    `data_order_seeds[i]`, up to rounding, and each can load the other's states. A whole step, from images to
    updated sums, is one function that never waits for the device.

    Args:
        networks: Networks of one architecture, moved to the device. Each maps images (batch, channels,
            height, width) to logits (batch, classes).
        config: Training settings of all, or one for each, which may differ only in `learning_rate` and
            `momentum`.
        regularizers: Regularizer of each network.
        data_order_seeds: Seed of each network's data order.
        device: Device of the networks: "cpu", "cuda", "mps", …
        convolution: As in `StackedNetworks`, except that None also means "products" under bf16.

    Raises:
        ValueError: if the numbers of networks, regularizers, seeds and configurations differ, the networks
            cannot be stacked, the configurations differ in other settings, or they compile and the device
            is neither CPU nor CUDA.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        config: ClassifierConfig | Sequence[ClassifierConfig],
        regularizers: Sequence[RegularizerSettings],
        *,
        data_order_seeds: Sequence[int],
        device: str | torch.device = "cpu",
        convolution: Literal["grouped", "products"] | None = None,
    ) -> None:
        configs = _one_each(config, len(networks))
        for name, given in (("regularizers", regularizers), ("data_order_seeds", data_order_seeds)):
            if len(given) != len(networks):
                raise ValueError(
                    f"{len(given)} {name} were given for {len(networks)} networks: give one for each."
                )
        self.config = configs[0]
        self.device = torch.device(device)
        moved = [network.to(device) for network in networks]
        if convolution is None and self.config.precision == "bf16":
            # On a CPU, autocast does not convert convolutions inside vmap: grouped ones would stay float32.
            convolution = "products"
        self.networks = StackedNetworks(moved, convolution=convolution)
        optimizers = [
            make_optimizer(*each) for each in zip(moved, configs, regularizers, strict=True)
        ]
        self.num_stacked = len(moved)
        self.optimizer = StackedOptimizer(
            optimizers, self.networks.in_order_of(optimizers[0], moved[0])
        )
        self._data_orders = StackedDataOrders(data_order_seeds, self.device)
        self._frozen: set[int] = set()
        self._steps = [0] * self.num_stacked
        self._task_steps = 1
        self._online_correct = torch.zeros(self.num_stacked, dtype=torch.int64, device=device)
        # float32 sums over a long task lose digits, but mps has no wider dtype
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        self._loss_sum = torch.zeros(self.num_stacked, dtype=wide, device=device)
        self._learn: Callable[..., tuple[Tensor, ...]] = self._learn_eagerly
        self._run_step: Callable[[Tensor, Tensor], Any] = self._train_step
        if self.config.compile and self.device.type == "cuda":
            self._run_step = GraphedFunction(self._train_step, device=self.device)
        elif self.config.compile:
            self._learn = CompiledStep(self._forward, self._update, device=self.device)

    # ---- training -------------------------------------------------------------------------------

    def train(self, tasks: TaskGroup, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train every classifier on its task, or continue after a stop.

        Args:
            tasks: The tasks; after a stop, pass the same ones again.
            should_stop: Called before every step; True leaves the tasks unfinished.

        Returns:
            Whether the tasks are finished.

        Raises:
            ValueError: if the batch size exceeds the number of training examples, or the classifiers are at
                different steps.
        """
        batch_size, epochs = self.config.batch_size, self.config.epochs_per_task
        if batch_size > tasks.num_train:
            raise ValueError(
                f"batch_size={batch_size} is larger than the task's {tasks.num_train} training"
                " examples: give a smaller one."
            )
        self.networks.train()
        steps_per_epoch = -(-tasks.num_train // batch_size)
        self._task_steps = epochs * steps_per_epoch
        step = self._common_step()
        while step < self._task_steps:
            epoch, first = divmod(step, steps_per_epoch)
            data_orders = self._data_orders.get(tasks.index, epoch, tasks.num_train)
            is_last = epoch + 1 == epochs
            following = (tasks.index + 1, 0) if is_last else (tasks.index, epoch + 1)
            self._data_orders.draw_ahead(*following, tasks.num_train)
            for indices in torch.split(data_orders, batch_size, dim=1)[first:]:
                if should_stop():
                    return False
                self._run_step(*tasks.train_batch(indices))
                step += 1
                self._steps = [step] * self.num_stacked
        return True

    def _common_step(self) -> int:
        live = {i: step for i, step in enumerate(self._steps) if i not in self._frozen}
        if len(set(live.values())) > 1:
            raise ValueError(
                f"The stacked classifiers are at different steps of their tasks: {live} (classifier: step)."
                " They can only be trained from the same step: load states saved at one step."
            )
        return next(iter(live.values()), self._task_steps)

    @property
    def task_progress(self) -> float:
        """Share of the current tasks' steps that are done, 0 to 1, for the classifiers not frozen."""
        return self._common_step() / self._task_steps

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        """Train every classifier for one step and update the sums, entirely on the device."""
        _, logits, losses = self._learn(images, labels)
        # Online accuracy: the logits are those before the update.
        self._online_correct += (logits.argmax(dim=-1) == labels).sum(1)
        self._loss_sum += losses * labels.shape[1]

    def _learn_eagerly(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        loss, logits, losses = self._forward(images, labels)
        self._update(loss)
        return loss.detach(), logits.detach(), losses.detach()

    def _forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self._logits(images)
        losses = self._losses(logits, labels)
        # The gradient of the sum holds the gradient of each loss, as no network is part of another's loss.
        return losses.sum(), logits, losses

    def _logits(self, images: Tensor) -> Tensor:
        if self.config.precision == "float32":
            return self.networks(images)
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            logits = self.networks(images)
        return logits.float()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each classifier's mean loss. Shape: (R, batch, classes) and (R, batch) to (R,)."""
        if self.config.loss == "cross-entropy":
            each = functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), reduction="none"
            )
            return each.view(labels.shape).mean(1)
        # Not functional.one_hot, which reads the labels on the host.
        one_hot = torch.zeros_like(logits).scatter_(-1, labels.unsqueeze(-1), 1.0)
        return (logits - one_hot).square().mean((1, 2))

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()

    def freeze(self, index: int) -> None:
        """Freeze a classifier: its weights and optimizer no longer change, and its results become invalid.

        It is still computed along with the others, without effect; only a new stack without it saves time.

        Raises:
            IndexError: if there is no such classifier.
        """
        self.optimizer.freeze(index)
        self._frozen.add(index)

    # ---- measuring ------------------------------------------------------------------------------

    def finish(self, tasks: TaskGroup) -> list[dict[str, float | bool]]:
        """Measure tasks that `train` has finished, and prepare for the next ones.

        Args:
            tasks: The finished tasks.

        Returns:
            For each classifier, the same as `Classifier.finish`; for frozen ones the numbers are meaningless.
        """
        examples = tasks.num_train * self.config.epochs_per_task
        count = min(self.config.train_evaluation_size, tasks.num_train)
        first = torch.arange(count, device=self.device).expand(self.num_stacked, -1)
        train_batches = (
            tasks.train_batch(indices) for indices in torch.split(first, EVALUATION_BATCH, dim=1)
        )
        train_accuracy, _ = self._evaluate(train_batches)
        test_accuracy, test_loss = self._evaluate(tasks.test_batches(EVALUATION_BATCH))
        online_accuracy = self._online_correct.to(self._loss_sum.dtype) / examples
        train_loss = self._loss_sum / examples
        figures = (test_accuracy, train_accuracy, online_accuracy, train_loss, test_loss)
        host = torch.stack(figures, dim=1).cpu()
        self._steps = [0] * self.num_stacked
        self._online_correct.zero_()
        self._loss_sum.zero_()
        return [
            {
                "test_accuracy": test,
                "train_accuracy": train,
                "online_accuracy": online,
                "train_loss": loss,
                "diverged": not finite,
            }
            for (test, train, online, loss, _), finite in zip(
                host.tolist(), host.isfinite().all(1).tolist(), strict=True
            )
        ]

    @torch.no_grad()
    def _evaluate(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return accuracy and mean loss of each classifier, as tensors on the device. Shape: (R,)."""
        self.networks.train(False)
        correct = torch.zeros_like(self._online_correct)
        loss = torch.zeros_like(self._loss_sum)
        examples = 0
        for images, labels in batches:
            logits = self.networks(images)
            correct += (logits.argmax(dim=-1) == labels).sum(1)
            loss += self._losses(logits, labels) * labels.shape[1]
            examples += labels.shape[1]
        return correct.to(loss.dtype) / examples, loss / examples

    # ---- saving and loading ---------------------------------------------------------------------

    def state_dict(self, index: int) -> dict[str, Any]:
        """Return one classifier's state in the format of `Classifier.state_dict`, which can continue from it.

        Steps are counted immediately here, so that none is pending.

        Raises:
            IndexError: if there is no such classifier.
        """
        return {
            "network": self.networks.state_dict(index),
            "optimizer": self.optimizer.state_dict(index),
            "step": self._steps[index],
            "task_steps": self._task_steps,
            "pending": [],
            "online_correct": self._online_correct[index].clone(),
            "loss_sum": self._loss_sum[index].clone(),
        }

    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Load a state saved by this class or by `Classifier`, on any device, into one classifier.

        Before the next `train`, all classifiers that are not frozen must have states of the same step. A
        frozen one takes the state and stays frozen.

        Raises:
            IndexError: if there is no such classifier.
            RuntimeError: if the state belongs to another network (torch's message).
            ValueError: if it belongs to another optimizer.
        """
        require_index(index, self.num_stacked)
        self.networks.load_state_dict(index, state["network"])
        self.optimizer.load_state_dict(index, state["optimizer"])
        self._steps[index] = state["step"]
        self._task_steps = state["task_steps"]
        self._online_correct[index].copy_(state["online_correct"])
        self._loss_sum[index].copy_(state["loss_sum"])
        for logits, labels, loss in state["pending"]:
            self._online_correct[index] += (logits.argmax(dim=-1) == labels).sum().to(self.device)
            self._loss_sum[index] += loss.to(self._loss_sum)
        if isinstance(self._run_step, GraphedFunction):
            self._run_step.forget()


def _one_each(
    config: ClassifierConfig | Sequence[ClassifierConfig], count: int
) -> Sequence[ClassifierConfig]:
    if isinstance(config, ClassifierConfig):
        return [config] * max(count, 1)
    if len(config) != count:
        raise ValueError(
            f"{len(config)} configurations were given for {count} networks: give one, or one for each."
        )
    for index, each in enumerate(config):
        alike = replace(each, learning_rate=config[0].learning_rate, momentum=config[0].momentum)
        if alike != config[0]:
            raise ValueError(
                f"config[{index}] is {each}, but config[0] is {config[0]}: the configurations of stacked"
                " classifiers may differ in learning_rate and momentum only."
            )
    return config
