"""Selection of actions in a rollout, by all agents at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plasticity.agents.execution.compiled import GraphedFunction
from plasticity.agents.ppo.environments import Environments
from plasticity.agents.ppo.policies import Policies

Chosen = tuple[Tensor, Tensor, Tensor]


class Acting:
    """Maps observations and noise to actions. It can be captured as a CUDA graph.

    Args:
        policies: Policies of all agents.
        envs: Environments, which give the bounds of the actions.
        captured: Whether to capture it.

    Raises:
        ValueError: if it is captured and the device is not CUDA.
    """

    def __init__(self, policies: Policies, envs: Environments, *, captured: bool) -> None:
        self._policies = policies
        self._low, self._high = envs.action_low, envs.action_high
        each = (*policies.lead, *[1] * (1 if envs.discrete else 2))
        dtype = torch.int64 if envs.discrete else None
        self.active = torch.ones(each, dtype=dtype, device=envs.device)
        """1 for each agent that acts; the environments of the others, with 0, get the action nearest to 0.
        Shape: (*lead, 1, 1), or (*lead, 1) if actions are discrete."""
        self._graph = GraphedFunction(self._choose, device=envs.device) if captured else None
        self._run: Callable[..., Chosen] = self._graph or self._choose

    def __call__(self, observations: Tensor, noise: Tensor) -> Chosen:
        """Choose actions, where gradients are off.

        Outputs plus normal noise, scaled by the standard deviation, are continuous actions. With Gumbel
        noise, the argmax of the sum is the discrete action.

        Args:
            observations: Observations of each agent. Shape: (*lead, envs, observation_size).
            noise: Noise added to the actor's outputs. Shape: (*lead, envs, action_size).

        Returns:
            Outputs of the actor, (*lead, envs, action_size); actions as sampled and actions as passed to the
            environments, (*lead, envs, action_size), or (*lead, envs) if they are discrete.
        """
        return self._run(observations, noise)

    def _choose(self, observations: Tensor, noise: Tensor) -> Chosen:
        outputs = self._policies.act(observations)
        perturbed = outputs + noise
        if self._low is None:
            actions = perturbed.argmax(-1)
            return outputs, actions, actions * self.active
        # A policy that diverged returns nan, which a simulator may reject, as Warp's ants do.
        moving = torch.nan_to_num(perturbed * self.active)
        return outputs, perturbed, torch.clamp(moving, self._low, self._high)

    def forget(self) -> None:
        """Drop the capture. Call this after loading a state, which may have replaced tensors."""
        if self._graph is not None:
            self._graph.forget()
