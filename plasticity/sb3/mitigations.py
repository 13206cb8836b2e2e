"""Mitigations on the networks of a Stable-Baselines3 model, by a callback."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch.optim import Optimizer

from plasticity.containers import mapped
from plasticity.initialization import Distribution
from plasticity.mitigations.attach import attach
from plasticity.mitigations.attached import Attached
from plasticity.mitigations.base import Mitigation
from plasticity.mitigations.hidden_units import resettable_units
from plasticity.mitigations.method import (
    SeededMethod,
    added_entries,
    method_name,
    require_compatible,
)
from plasticity.sb3.tasks import TaskFollower
from plasticity.sb3.trained_networks import TrainedNetwork, trained_networks
from plasticity.seeds import child_seed
from plasticity.units import trace_units

__all__ = ["MitigationCallback"]

logger = logging.getLogger("plasticity")

STATE = "plasticity_mitigations"
"""Attribute of a model that holds the state of its mitigations, and is saved with it."""


class MitigationCallback(BaseCallback):
    """Callback that lets mitigations act on all trained networks of a model, while it learns.

    ::

        callback = MitigationCallback(ReDo(every=1000), Syre(strength=1e-3, sigma=0.3))
        model.learn(1_000_000, callback=callback)
        model.save("model")  # with the state of the mitigations

        model = PPO.load("model", env)
        model.learn(1_000_000, callback=MitigationCallback(ReDo(every=1000), Syre(…)))  # continues

    Supports PPO, A2C, DQN, SAC, TD3 and DDPG, and what has the same networks (TRPO, MaskablePPO, QRDQN, TQC).
    `PlasticityCallback(mitigations=[…])` does the same, and has what the mitigations count in its rows.

    - **Networks.** Each optimizer's network has mitigations of its own, with the same settings: ``policy`` of
      PPO and A2C (actor and critic share an optimizer), ``q_net`` of DQN, ``actor`` and ``critic`` (all
      critics) of SAC, TD3 and DDPG. A features extractor that actor and critic share is the actor's. Layers
      whose units cannot be reset one by one, such as those that a `CombinedExtractor` joins, are left alone,
      which is logged.
    - **Target networks** are left alone: they follow the trained ones at their next update, at once in DQN
      (`tau=1`), and gradually in SAC and TD3.
    - **Time.** `every` counts optimizer steps of that network. After the first updates, the number of
      environment steps that it comes to is logged, and printed unless ``verbose=0``.
    - **Penalties** join the gradients right before a step, after Stable-Baselines3 has clipped these
      (``max_grad_norm``), as decays do.
    - **Tasks.** Where ``info["task"]`` changes, mitigations that act between tasks are called. They get no
      data of the task that begins.
    - **Saving.** ``model.save`` writes the state into the zip file, as plain values. A model that is loaded
      continues with it when it learns with the same mitigations; ``del model.plasticity_mitigations`` drops
      it. Weights, moments and what the mitigations draw continue exactly.
    - **Evaluation** with other parameters than those that are trained (Hare & Tortoise): inside ``with
      callback.evaluating():``.

    Args:
        *mitigations: Mitigations, in the order in which they act. Those that change the architecture are
            refused: give the network in `policy_kwargs`. So are those that add parameters or buffers to a
            network, which a saved model could not be loaded with.
        seed: Seed of random anchors, and of all that the mitigations draw; each network has a child seed of
            it. None: that of the model, or 0.
        initialize: As in `attach`: distributions that weights are drawn from anew.
        task_key: Entry of ``info`` that holds the task; None for no task boundaries.
        verbose: 1 to print how many environment steps `every` comes to; 0 to log it only.

    Raises:
        TypeError: if an argument is no mitigation; at the start of training, if the kind of policy is not
            known.
        ValueError: if mitigations cannot be combined, or one needs outputs that are logits; at the start of
            training, if one cannot be attached, or the model was saved with other mitigations.

    Examples:
        >>> from plasticity.mitigations import ReDo
        >>> from stable_baselines3 import PPO
        >>> model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64)
        >>> model = model.learn(128, callback=MitigationCallback(ReDo(every=10), verbose=0))
    """

    attached: dict[str, Attached]
    """Mitigations at work, by the name of the network."""

    def __init__(
        self,
        *mitigations: Mitigation,
        seed: int | None = None,
        initialize: Mapping[str, Distribution] | None = None,
        task_key: str | None = "task",
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        require_compatible(mitigations)
        _require_values(mitigations)
        self.mitigations, self.seed = mitigations, seed
        self.attached = {}
        self._initialize = initialize
        self._follower = TaskFollower(task_key)
        self._handles: list[Any] = []
        self._clock: _Clock | None = None

    def take_counts(self) -> dict[str, float]:
        """Return what the mitigations counted since the last call, such as ``reset_units/critic/qf0.0``."""
        found = {}
        for network, attached in self.attached.items():
            for name, number in attached.take_counts().items():
                kind, _, layer = name.partition("/")
                is_named = network in ("policy", "q_net")  # whose layers' names say it
                parts = (kind, layer) if is_named else (kind, network, layer)
                found["/".join(filter(None, parts))] = number
        return found

    def evaluating(self) -> ExitStack:
        """Give the networks the parameters that they are to be evaluated with, inside the block."""
        block = ExitStack()
        for each in self.attached.values():
            block.enter_context(each.evaluating())
        return block

    def boundary(self, task: int | str) -> None:
        """Tell that a task has ended, and which one begins: a number, or a name, which is counted."""
        for each in self.attached.values():
            each.boundary(each.task + 1 if isinstance(task, str) else task)

    def _on_training_start(self) -> None:
        kept = getattr(self.model, STATE, None)
        if isinstance(kept, _State):  # of an earlier call of learn
            kept.callback.detach()
            kept = kept.state_dict()
        self.attached = {}
        networks = trained_networks(self.model.policy, _pair(self.model._last_obs))
        if kept is not None and kept.keys() != networks.keys():
            raise ValueError(
                f"The saved mitigations are those of the networks {list(kept)}, but this model has"
                f" {list(networks)}: del model.{STATE} starts them anew."
            )
        try:
            for name, network in networks.items():
                self._attach(name, network, None if kept is None else kept[name])
        except Exception:
            self.detach()
            raise
        setattr(self.model, STATE, _State(self))
        self._clock = _Clock(self.mitigations, networks)
        self._handles += self._clock.handles
        self._follower.begin(self.training_env.num_envs, reset=True)

    def _attach(self, name: str, network: TrainedNetwork, state: Any) -> None:
        layers, acting = None, self.mitigations
        if any(each.reads_units for each in acting):
            flow = trace_units(network.module, network.example)
            units, faults = resettable_units(flow, network.module)
            layers = tuple(units)
            for fault in faults.values():
                logger.info("Left alone in %s: %s", name, fault)
            if not layers:  # as with net_arch=[]
                logger.info("Mitigations of units leave %s alone: it has no hidden layer.", name)
                acting = tuple(each for each in acting if not each.reads_units)
        added = added_entries(network.module, SeededMethod(self.mitigations, 0))
        if added:
            raise ValueError(
                f"{method_name(self.mitigations)} adds {added} to {name}, which the policy that is built by"
                " Stable-Baselines3's load does not have: use plasticity.attach in a loop of your own."
            )
        attached = attach(
            network.module,
            network.optimizer,
            *acting,
            seed=child_seed(self._own_seed(), name),
            inputs=network.example,
            layers=layers,
            initialize=self._initialize,
            adds_penalty=True,
            state=state,
        )
        self.attached[name] = attached
        self._handles.append(network.on_inputs(attached.observe))

    def _own_seed(self) -> int:
        return next(each for each in (self.seed, self.model.seed, 0) if each is not None)

    def _on_rollout_start(self) -> None:
        for each in self.attached.values():
            each.drop_passes()  # of an update that stopped early (PPO's target_kl)
        if self._clock is not None and self._clock.has_news(self.num_timesteps):
            for line in self._clock.lines():
                logger.info(line)
                if self.verbose > 0:
                    print(line)
            self._clock = None

    def _on_step(self) -> bool:
        new_task = self._follower.new_task(self.locals["infos"], self.locals["dones"])
        if new_task is not None:
            self._follower.change(new_task)
            self.boundary(new_task)
        return True

    def _on_training_end(self) -> None:
        self.detach()

    def detach(self) -> None:
        """Remove the mitigations from the model, whose state stays with it."""
        for each in (*self._handles, *self.attached.values()):
            each.remove() if hasattr(each, "remove") else each.detach()
        self._handles = []

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings alone: the state of the mitigations is saved with the model."""
        state = self.__dict__.copy()
        state.pop("model", None)
        state.update(locals={}, globals={}, parent=None, attached={}, _handles=[], _clock=None)
        return state


class _State:
    """State of a model's mitigations; it is saved, and copied, as a dictionary of plain values."""

    __slots__ = ("callback",)  # Stable-Baselines3 writes out what is in __dict__

    def __init__(self, callback: MitigationCallback) -> None:
        self.callback = callback

    def state_dict(self) -> dict[str, Any]:
        return {name: each.state_dict() for name, each in self.callback.attached.items()}

    def __reduce__(self) -> Any:
        return dict, (mapped(_on_cpu, self.state_dict()),)


def _require_values(mitigations: Iterable[Mitigation]) -> None:
    """Raise a ValueError if a mitigation takes a network's outputs for logits of one distribution."""
    for each in mitigations:
        if each.needs_logits:
            raise ValueError(
                f"{each} needs networks whose outputs are logits of one distribution, but those of"
                " Stable-Baselines3 are values, means, or logits beside a value: change its settings, or"
                " leave it out."
            )


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value


class _Clock:
    """Environment steps for each optimizer step, over one round of collecting and updating.

    The first round is left out, which may have a start without updates.
    """

    def __init__(
        self, mitigations: Iterable[Mitigation], networks: Mapping[str, TrainedNetwork]
    ) -> None:
        self._timed = [each for each in mitigations if hasattr(each, "every")]
        self._done = dict.fromkeys(networks, 0)
        self._begin: tuple[int, dict[str, int]] | None = None
        self._end: tuple[int, dict[str, int]] | None = None
        self.handles = [
            each.optimizer.register_step_post_hook(self._counter(name))
            for name, each in networks.items()
            if self._timed
        ]

    def _counter(self, name: str) -> Any:
        def count(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            self._done[name] += 1

        return count

    def has_news(self, step: int) -> bool:
        """Take the environment steps at the start of a round, and return whether a line can be said."""
        if not all(self._done.values()):
            return False
        if self._begin is None:
            self._begin = step, dict(self._done)
            return False
        self._end = step, dict(self._done)
        return all(self._done[name] - done >= 8 for name, done in self._begin[1].items())

    def lines(self) -> list[str]:
        """Return a line for each mitigation that acts at a cadence."""
        assert self._begin is not None
        assert self._end is not None
        steps = self._end[0] - self._begin[0]
        found = []
        for each in self._timed:
            parts = [
                f"{round(each.cadence * steps / (self._end[1][name] - done)):,} of {name}"
                for name, done in self._begin[1].items()
            ]
            found.append(
                f"{each.name}: every={each.cadence} optimizer steps, which takes this many environment steps:"
                f" {', '.join(parts)}."
            )
        return found


def _pair(observations: Any) -> Any:
    """Return two observations, to trace the networks on before any steps are made."""
    return mapped(lambda each: np.concatenate([each, each])[:2], observations)
