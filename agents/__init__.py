"""Learners: networks, the continual classifier, and PPO."""

from plasticity.agents.actor_critic import ActorCritic
from plasticity.agents.classifier import Classifier, ClassifierConfig
from plasticity.agents.networks import ImageNetwork, NetworkConfig
from plasticity.agents.ppo import PPO, Episode, Iteration
from plasticity.agents.ppo_config import PRESETS, PPOConfig

__all__ = [
    "PPO",
    "PRESETS",
    "ActorCritic",
    "Classifier",
    "ClassifierConfig",
    "Episode",
    "ImageNetwork",
    "Iteration",
    "NetworkConfig",
    "PPOConfig",
]
