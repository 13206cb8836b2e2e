"""Training of one network, or of R stacked ones, on one task after another.

One optimizer and one network go through the whole stream; only a mitigation resets anything between tasks.
The inner loop never waits for the device: sums stay on it and are read once per task.

Regardless of the precision of the training steps, weights, optimizer and decay are float32, and measurements
after a task are made in float32, so that results of both precisions are comparable.

Everything here has leading dimensions `...`: none for one network, (R,) for R stacked ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.agents.execution.compiled import CompiledStep
from plasticity.agents.execution.denormals import flushed_denormals
from plasticity.agents.execution.hooks import make_hooks
from plasticity.agents.execution.measuring import measured
from plasticity.agents.execution.single import (
    SingleNetwork,
    SingleOptimizer,
    constants_of,
    part_of,
)
from plasticity.agents.supervised.best_weights import BestWeights
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.counts import Counts
from plasticity.agents.supervised.data_orders import DataOrders
from plasticity.agents.supervised.dense_learning import dense_learning
from plasticity.agents.supervised.output_layer import output_parameters
from plasticity.agents.supervised.task import EpochTask, Task, ValidatedTask, require_validation
from plasticity.agents.supervised.task_loss import TaskLoss
from plasticity.metrics.registry import Metric
from plasticity.mitigations import SeededMethod
from plasticity.mitigations.hooks import Hooks, require_same_mitigations
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import StackedNetworks, require_index

EVALUATION_BATCH = 250
"""Examples of each network evaluated at once; memory holds the activations of R times as many. On a CPU the
CNN of the benchmarks takes two thirds of the time that it takes with 1000."""

GATHERED_EXAMPLES = 64
"""Examples gathered at once for the steps of one network: of small batches, those of several steps."""


class Trainer:
    """Networks, their optimizer, and their position in the stream, which all share.

    The two backends are `Classifier`, for one network, and `StackedClassifier`. A network is addressed by its
    index: 0 for the only one.

    Args:
        networks: The network, or the stacked ones, on the device.
        optimizer: Its optimizer.
        config: Training settings.
        methods: Mitigations of each network.
        data_order_seeds: Seed of each network's data order, which depends only on the seed, the task and the
            epoch.
        lead: Leading dimensions: () for one network, (R,) for R stacked ones.
        device: Device of the networks.
        keep_start: Whether to keep the weights from the beginning of each task, for "update" metrics.
        keep_last: Whether to keep the weights before the last step of each task, for "step" metrics.
        keep_gradients: Whether every step leaves its gradients, without a decay, where they can be measured.
        learning_rates: Learning rate of each network. None: that of the training settings.

    Raises:
        ValueError: if the configuration compiles, and the device is neither CPU nor CUDA.
    """

    def __init__(
        self,
        networks: SingleNetwork | StackedNetworks,
        optimizer: SingleOptimizer | StackedOptimizer,
        config: ClassifierConfig,
        *,
        methods: Sequence[SeededMethod],
        data_order_seeds: Sequence[int],
        lead: tuple[int, ...],
        device: str | torch.device,
        keep_start: bool,
        keep_last: bool = False,
        keep_gradients: bool = False,
        learning_rates: Sequence[float] | None = None,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.num_networks = len(data_order_seeds)
        self._networks, self._optimizer, self._lead = networks, optimizer, lead
        self._data_orders = DataOrders(data_order_seeds, lead, self.device)
        self._frozen: set[int] = set()
        self._steps = [0] * self.num_networks
        self._task_steps = 1
        self._loss = TaskLoss(config.loss, lead, self.device)
        self._online = Counts(lead, self.device, self._loss.of_examples)
        self._keep_start = keep_start
        self._start: dict[str, Tensor] | None = None
        self._keep_last, self._keep_gradients = keep_last, keep_gradients
        self._before_last: dict[str, Tensor] | None = None
        self._learning_rates = learning_rates or [config.learning_rate] * self.num_networks
        self._output: tuple[str, ...] = ()
        self._best = BestWeights(networks, lead) if config.keep_best else None
        self._hooks = make_hooks(networks, optimizer, methods)
        self._compiled = self._compile() if config.compile else None
        self._dense = dense_learning(
            networks, optimizer, config, self._loss, self._hooks, keep_gradients=keep_gradients
        )
        self._is_dense = False

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Parameters by name. Shape of each: (..., *shape)."""
        return self._networks.parameters

    # ---- training -------------------------------------------------------------------------------

    def train(self, task: Task, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train on one task, or continue it after a stop.

        Args:
            task: The task, or the stacked ones; after a stop, pass the same again.
            should_stop: Called before every step; True leaves the task unfinished.

        Returns:
            Whether the task is finished.

        Raises:
            ValueError: if the batch size exceeds the number of training examples, a label is outside the
                task's active classes, the networks are at different steps, or the best weights are to be
                kept and the task has no examples for validation.
        """
        batch_size, epochs = self.config.batch_size, self._epochs_of(task)
        if batch_size > task.num_train:
            raise ValueError(
                f"batch_size={batch_size} is larger than the task's {task.num_train} training"
                " examples: give a smaller one."
            )
        steps_per_epoch = -(-task.num_train // batch_size)
        self._task_steps = epochs * steps_per_epoch
        step = self._common_step()
        self._begin(task, step)
        while step < self._task_steps:
            epoch, first = divmod(step, steps_per_epoch)
            data_orders = self._data_orders.get(task.index, epoch, task.num_train)
            is_last = epoch + 1 == epochs
            following = (task.index + 1, 0) if is_last else (task.index, epoch + 1)
            self._data_orders.draw_ahead(*following, task.num_train)
            shown = self._begin_epoch(task, epoch)
            without_graph = torch.no_grad() if self._is_dense else nullcontext()
            with without_graph, flushed_denormals():
                for batch in self._batches(shown, data_orders, first):
                    if should_stop():
                        return False
                    if self._keep_last and step + 1 == self._task_steps:
                        self._before_last = self._evaluated_weights()
                    self._train_step(*batch)
                    step += 1
                    self._steps = [step] * self.num_networks
            self._end_epoch(task)
        if self._best is not None:
            self._best.restore(self._live)
        return True

    @property
    def _live(self) -> list[int]:
        """Indices of the networks that are not frozen."""
        return [run for run in range(self.num_networks) if run not in self._frozen]

    def _begin_epoch(self, task: Task, epoch: int) -> Task:
        """Set the learning rate, and return the task with the examples of an epoch."""
        if self.config.learning_rate_drops:
            share = self.config.learning_rate_share(epoch)
            self._optimizer.set_learning_rate([rate * share for rate in self._learning_rates])
            self._is_dense = self._dense is not None and self._dense.follow()
        return task.in_epoch(epoch) if isinstance(task, EpochTask) else task

    def _end_epoch(self, task: Task) -> None:
        """Keep the weights, if they are the best so far."""
        if self._best is None or not isinstance(task, ValidatedTask):
            return
        with self._evaluating():
            accuracy, _ = self._evaluate(task.validation_batches(EVALUATION_BATCH))
        self._best.offer(accuracy)
        self._networks.train(True)

    def _epochs_of(self, task: Task) -> int:
        return self.config.epochs_per_task * task.spec.passes

    def _batches(
        self, task: Task, data_orders: Tensor, first: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch from one of them on."""
        size = self.config.batch_size
        # Stacked tasks have a leading axis, along which the batches of several steps would have gaps.
        at_once = 1 if self._lead else max(1, GATHERED_EXAMPLES // size)
        # Gathered at fixed positions, also after a stop: products may round by the place in memory.
        done, skipped = divmod(first, at_once)
        for indices in torch.split(data_orders, at_once * size, dim=-1)[done:]:
            inputs, labels = task.train_batch(indices)
            if at_once == 1:
                yield inputs, labels
                continue
            batches = zip(torch.split(inputs, size), torch.split(labels, size), strict=True)
            yield from itertools.islice(batches, skipped, None)
            skipped = 0

    def _common_step(self) -> int:
        live = {i: step for i, step in enumerate(self._steps) if i not in self._frozen}
        if len(set(live.values())) > 1:
            raise ValueError(
                f"The stacked classifiers are at different steps of their tasks: {live} (classifier: step)."
                " They can only be trained from the same step: load states saved at one step."
            )
        return next(iter(live.values()), self._task_steps)

    def _begin(self, task: Task, step: int) -> None:
        """Prepare to train on a task from this step on."""
        self._networks.train(True)
        self._loss.follow(task.spec)
        if self._best is not None:
            require_validation(task)
        self._is_dense = self._dense is not None and self._dense.follow()
        if isinstance(self._optimizer, SingleOptimizer) and self._compiled is None:
            reads = self._hooks is not None and self._hooks.reads_gradients
            self._optimizer.take_direct_steps(keep_gradients=reads or self._keep_gradients)
        if step == 0:
            self._loss.require_active(task, self._all_batches(task))
        if self._hooks is not None:
            self._begin_hooks(self._hooks, task, step)
        if step == 0 and self.config.output_layer == "zeroed":
            self._zero_output_layer(task)
        self._online.keep_until(step)
        if self._keep_start and step == 0:
            self._start = self._evaluated_weights()

    @torch.no_grad()
    def _zero_output_layer(self, task: Task) -> None:
        """Zero the output layer, after all that mitigations do at a boundary."""
        if not self._output:
            inputs = next(self._first_train_batches(task, 2))[0]
            own = part_of(inputs, self._lead, 0)
            self._output = output_parameters(self._networks.network(0), own)
        for name in self._output:
            for run in self._live:
                part_of(self.parameters[name].detach(), self._lead, run).zero_()

    def _evaluated_weights(self) -> dict[str, Tensor]:
        """Return copies of the weights that the networks are measured with."""
        with self._evaluating():
            return {name: each.detach().clone() for name, each in self.parameters.items()}

    def begin_with(self, task: int) -> None:
        """Take a task of any index as the first one: no mitigation acts at a boundary before it."""
        if self._hooks is not None:
            self._hooks.tasks = [task] * self.num_networks

    def _begin_hooks(self, hooks: Hooks, task: Task, step: int) -> None:
        hooks.begin(lambda: next(self._first_train_batches(task, 2))[0])
        if step == 0 and task.index > 0:
            # those whose boundary is not behind them already, before a stop at this step
            runs = [run for run, latest in enumerate(hooks.tasks) if latest != task.index]
            hooks.boundary(
                task.index,
                [run for run in runs if run not in self._frozen],
                lambda: self._first_train_batches(task, task.num_train),
                self._loss_of,
            )
        hooks.progress.task = task.index
        if self._compiled is not None or (hooks.reads_every_step and not self._is_dense):
            self._networks.always_record(hooks.all_recorded_layers)

    def _loss_of(self, index: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss of one network, as a function of its logits and labels."""
        own = self._loss.of_network(index)
        return lambda logits, labels: own(own.masked(logits), labels)

    @property
    def task_progress(self) -> float:
        """Share of the current task's steps that are done, 0 to 1, for the networks not frozen."""
        return self._common_step() / self._task_steps

    def _train_step(self, inputs: Tensor, labels: Tensor) -> None:
        # Chosen at each step: storing the bound method in self would create a reference cycle, so that
        # the object and its memory would be freed late.
        dense = self._dense if self._is_dense else None
        losses, logits, layer_inputs = (dense or self._compiled or self._learn_eagerly)(
            inputs, labels
        )
        if self._hooks is not None:
            if self._compiled is not None:  # a replayed graph has shown them nothing
                self._hooks.observe(inputs, layer_inputs)
            self._hooks.after_step()
        self._online.add(logits, labels, losses)  # the logits are those before the update

    def _learn_eagerly(self, inputs: Tensor, labels: Tensor) -> tuple[Any, ...]:
        losses, logits, layer_inputs = self._forward(inputs, labels)
        self._update(losses, logits, layer_inputs, inputs, labels)
        return losses.detach(), logits.detach(), layer_inputs

    def _recorded_layers(self) -> tuple[str, ...]:
        """Return the layers whose inputs the mitigations need of the next step; of all, once compiled."""
        if self._hooks is None:
            return ()
        is_fixed = self.config.compile
        return self._hooks.all_recorded_layers if is_fixed else self._hooks.recorded_layers

    def _compile(self) -> CompiledStep:
        # Only inputs and labels are inputs: how they are produced differs from task to task.
        return CompiledStep(
            self._forward, self._update, device=self.device, constants=self._constants
        )

    def _constants(self) -> Hashable:
        """Return what a captured step holds fixed."""
        return self._loss.constants, constants_of(self._optimizer)

    def _forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return losses, logits, and the inputs of the layers that the mitigations need, by name."""
        layers = self._recorded_layers()
        if self.config.precision == "bf16":
            # Every weight is used once, so caching its bfloat16 copy would gain nothing.
            with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
                logits, layer_inputs = self._networks.with_inputs_of(layers, inputs)
            logits = logits.float()
        else:
            logits, layer_inputs = self._networks.with_inputs_of(layers, inputs)
        logits = self._loss.masked(logits)
        return self._loss(logits, labels), logits, layer_inputs

    def _update(
        self,
        losses: Tensor,
        logits: Tensor,
        layer_inputs: Mapping[str, Tensor],
        inputs: Tensor,
        labels: Tensor,
    ) -> None:
        self._optimizer.zero_grad()
        hooks = self._hooks
        if hooks is not None:
            hooks.observe(inputs, layer_inputs)
            penalty = hooks.penalty()
            losses = losses if penalty is None else losses + penalty
        # The gradient of their sum holds the gradient of each: no network is part of another's loss.
        torch.autograd.backward(losses, torch.ones_like(losses))
        if hooks is not None:
            hooks.before_step()
        self._optimizer.step()

    def freeze(self, index: int) -> None:
        """Freeze a network: its weights and optimizer no longer change, and its results become invalid.

        A stacked one is still computed along with the others, without effect; only a new stack without it
        saves time.

        Raises:
            IndexError: if there is no such network.
        """
        require_index(index, self.num_networks)
        self._frozen.add(index)
        self._optimizer.freeze(index)
        if self._hooks is not None:
            self._hooks.freeze(index)

    # ---- measuring ------------------------------------------------------------------------------

    def finish(self, task: Task) -> list[dict[str, float | bool]]:
        """Measure a task that `train` has finished, and prepare for the next one.

        Args:
            task: The finished task.

        Returns:
            For each network: `test_accuracy` (if the task has test examples) and `train_accuracy` after the
            task, `online_accuracy` (each example before the update that uses it) and `train_loss` over the
            task, all averaged over examples; of a regression, `test_loss` and `online_loss` instead; what the
            mitigations counted, such as `reset_units/LAYER`, and
            `diverged`: whether a loss was not finite. For frozen ones the numbers are meaningless.
        """
        examples = task.num_train * self._epochs_of(task)
        count = min(self.config.train_evaluation_size, task.num_train)
        with self._evaluating():
            tested = self._evaluate(task.test_batches(EVALUATION_BATCH))
            train_accuracy, _ = self._evaluate(self._first_train_batches(task, count))
        online_accuracy, train_loss = self._online.means(examples)
        figures: dict[str, Tensor] = {}
        if tested:
            figures["test_accuracy"], figures["test_loss"] = tested
        figures |= {
            "train_accuracy": train_accuracy,
            "online_accuracy": online_accuracy,
            "train_loss": train_loss,
        }
        shown = [name for name in figures if name != "test_loss"]
        if self._loss.is_regression:
            figures["online_loss"] = figures.pop("train_loss")
            shown = [name for name in figures if name.endswith("_loss")]
        host = torch.stack(list(figures.values()), dim=-1).view(-1, len(figures)).cpu()
        self._steps = [0] * self.num_networks
        self._online.clear()
        if self._best is not None:
            self._best.forget()
        finite = host.isfinite().all(1).tolist()
        rows = [dict(zip(figures, each, strict=True)) for each in host.tolist()]
        counts = [{}] * len(rows) if self._hooks is None else self._hooks.take_counts()
        return [
            {name: row[name] for name in shown} | counted | {"diverged": not sound}
            for row, counted, sound in zip(rows, counts, finite, strict=True)
        ]

    def _evaluating(self) -> AbstractContextManager[None]:
        """Give the networks the weights that they are evaluated with, inside the block."""
        return nullcontext() if self._hooks is None else self._hooks.evaluating()

    def _all_batches(self, task: Task) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over all training examples of a task, in order, and its test examples."""
        yield from self._first_train_batches(task, task.num_train)
        yield from task.test_batches(EVALUATION_BATCH)

    def _first_train_batches(self, task: Task, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the first training examples of a task, in order."""
        first = torch.arange(count, device=self.device).expand(*self._lead, -1)
        return (
            task.train_batch(indices) for indices in torch.split(first, EVALUATION_BATCH, dim=-1)
        )

    @torch.no_grad()
    def _evaluate(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        """Return accuracy and mean loss of each network, as tensors on the device; nothing without examples.

        Shape of each: (...).
        """
        self._networks.train(False)
        counts = Counts(self._lead, self.device)
        examples = 0
        for inputs, labels in batches:
            logits = self._loss.masked(self._networks(inputs))
            counts.add(logits, labels, self._loss(logits, labels))
            examples += logits.shape[-2]
        return counts.means(examples) if examples else ()

    def measure(
        self,
        probe: Tensor,
        metrics: Sequence[str | Metric],
        layers: Sequence[str],
        indices: Sequence[int],
        labels: Tensor | None = None,
    ) -> dict[int, dict[str, float]]:
        """Measure networks without disturbing them.

        Args:
            probe: Inputs. Shape: (..., batch, *input_shape).
            metrics: As in `Tracker`. With `keep_start`, "update" metrics are those of the latest task; with
                `keep_last`, "step" metrics are those of its last step.
            layers: Names of the layers whose features are measured.
            indices: Indices of the networks to measure.
            labels: Labels of the probe, for "loss" metrics. Shape: (..., batch).

        Returns:
            The numbers by ``metric/layer``, by index, of the networks whose features are all finite.
        """
        losses = None
        if labels is not None:
            losses = [self._loss_on(probe, labels, index) for index in range(self.num_networks)]
        with self._evaluating():
            return measured(
                self._networks,
                probe,
                metrics,
                layers,
                indices=indices,
                previous=self._start,
                before_step=self._before_last,
                losses=losses,
            )

    def _loss_on(self, probe: Tensor, labels: Tensor, index: int) -> Callable[[nn.Module], Tensor]:
        """Return a function that computes the latest task's loss of a network of this index."""
        loss = self._loss_of(index)
        inputs, own = (part_of(each, self._lead, index) for each in (probe, labels))
        return lambda network: loss(network(inputs), own)

    # ---- saving and loading ---------------------------------------------------------------------

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return all that the next step of one network depends on, except the task itself.

        Either backend continues from it.

        Raises:
            IndexError: if there is no such network.
        """
        require_index(index, self.num_networks)
        step = self._steps[index]
        state = {
            "network": self._networks.state_dict(index),
            "optimizer": self._optimizer.state_dict(index),
            "step": step,
            "task_steps": self._task_steps,
            **self._online.state_dict(step, index),
        }
        if self._best is not None:
            state["best"] = self._best.state_dict(index)
        if self._hooks is not None:
            state["mitigations"] = self._hooks.state_dict(index)
        if self._start is not None and step > 0:
            state["start"] = {
                name: part_of(each, self._lead, index).clone() for name, each in self._start.items()
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any], index: int = 0) -> None:
        """Load a state of one network, saved by either backend on any device.

        Before the next `train`, all networks that are not frozen must have states of the same step. A frozen
        one takes the state and stays frozen.

        Raises:
            IndexError: if there is no such network.
            RuntimeError: if the state belongs to another network (torch's message).
            ValueError: if it belongs to another optimizer, or to other mitigations.
        """
        require_index(index, self.num_networks)
        own = None if self._hooks is None else self._hooks.state_dict(index)
        require_same_mitigations(state.get("mitigations"), own)
        self._networks.load_state_dict(index, state["network"])
        self._optimizer.load_state_dict(index, state["optimizer"])
        if self._compiled is not None:
            self._compiled.forget()  # the loaded state is in other tensors
        if self._hooks is not None:
            self._hooks.load_state_dict(state["mitigations"], index)
        self._steps[index] = state["step"]
        self._task_steps = state["task_steps"]
        self._online.load_state_dict(state, index)
        if self._best is not None:
            self._best.load_state_dict(state["best"], index)
        if self._keep_start and "start" in state:  # absent between two tasks
            if self._start is None:
                self._start = {name: torch.empty_like(p) for name, p in self.parameters.items()}
            for name, tensor in state["start"].items():
                part_of(self._start[name], self._lead, index).copy_(tensor)
