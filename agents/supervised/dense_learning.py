"""Learning step of a dense network, with backpropagation written out: the same numbers up to rounding.

At batch 1, an MLP of 3 x 100 spends most of a step on autograd's and the optimizer's bookkeeping.
"""

from __future__ import annotations

from torch import Tensor

from plasticity.agents.execution.dense import DenseGradients, dense_activation
from plasticity.agents.execution.rank_one import RankOneDescent
from plasticity.agents.execution.single import SingleNetwork, SingleOptimizer
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.task_loss import TaskLoss
from plasticity.mitigations.hooks import Hooks
from plasticity.optim.linear_step import linear_step


class DenseLearning:
    """Forward pass, backward pass and update of a network, or nothing, if the network is not dense.

    The gradients are stored, for an optimizer of any kind and the mitigations, or with plain SGD at batch 1,
    if no mitigation reads them, added to the weights at once.

    Args:
        network: The network, on the CPU.
        optimizer: Its optimizer.
        config: Training settings.
        loss: Loss of the current task.
        hooks: Mitigations that act on steps.
        keep_gradients: Whether every step leaves its gradients.
    """

    def __init__(
        self,
        network: SingleNetwork,
        optimizer: SingleOptimizer,
        config: ClassifierConfig,
        loss: TaskLoss,
        hooks: Hooks | None,
        *,
        keep_gradients: bool = False,
    ) -> None:
        self._network, self._optimizer, self._config = network, optimizer, config
        self._loss, self._hooks = loss, hooks
        self._keep_gradients = keep_gradients
        self._gradients: DenseGradients | None = None
        self._descent: RankOneDescent | None = None
        self._at_once = False

    def follow(self) -> bool:
        """Look at the network and the optimizer as they are now, and return whether steps can be taken."""
        activation = dense_activation(self._network.template)
        if activation is None:
            return False
        parameters = self._network.parameters
        stores = self._keep_gradients or (
            self._hooks is not None and (self._hooks.has_penalty or self._hooks.reads_gradients)
        )
        step = None
        if self._config.batch_size == 1 and not stores:
            step = linear_step(self._optimizer.ordinary)
        self._at_once = step is not None
        if step is not None:
            if self._descent is None or not self._descent.holds:
                self._descent = RankOneDescent(parameters, activation)
            self._descent.follow(step)
        elif self._gradients is None:
            self._gradients = DenseGradients(parameters, activation, self._config.batch_size)
        return True

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor | None, Tensor, object]:
        """Learn from a batch, inside of `torch.no_grad()`.

        Args:
            inputs: Shape: (batch, *input_shape).
            labels: Shape: (batch,).

        Returns:
            The mean loss, or None where that of each example is better computed later; the masked logits
            before the update, a new tensor, (batch, classes); and the inputs of each layer by name.
        """
        rows = inputs.view(len(labels), -1)
        if self._at_once:
            return self._learn_at_once(rows, inputs, labels)
        assert self._gradients is not None
        logits = self._loss.masked(self._gradients.forward(rows)).clone()
        losses = self._loss(logits, labels)
        penalty = None
        if self._hooks is not None:
            self._hooks.observe(inputs, self._gradients.layer_inputs)
            penalty = self._hooks.penalty()
        self._gradients.backward(self._loss.gradient(logits, labels), penalty)
        if self._hooks is not None:
            self._hooks.before_step()
        self._optimizer.step()
        return losses, logits, {}

    def _learn_at_once(
        self, rows: Tensor, inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor | None, Tensor, object]:
        assert self._descent is not None
        logits = self._loss.masked(self._descent.forward(rows))
        if self._hooks is not None:
            self._hooks.observe(inputs, self._descent.layer_inputs)
        self._descent.descend(self._loss.gradient(logits, labels))
        losses = None if self._loss.is_of_examples else self._loss(logits, labels)
        return losses, logits, {}


def dense_learning(
    networks: object,
    optimizer: object,
    config: ClassifierConfig,
    loss: TaskLoss,
    hooks: Hooks | None,
    *,
    keep_gradients: bool = False,
) -> DenseLearning | None:
    """Return the learning of one network on a CPU, if its settings permit; None otherwise."""
    if not isinstance(networks, SingleNetwork) or not isinstance(optimizer, SingleOptimizer):
        return None
    first = next(iter(networks.parameters.values()))
    by_autograd = hooks is not None and hooks.penalizes_features
    if first.device.type != "cpu" or config.precision != "float32" or config.compile or by_autograd:
        return None
    return DenseLearning(networks, optimizer, config, loss, hooks, keep_gradients=keep_gradients)
