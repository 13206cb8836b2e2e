"""Learners: networks, the continual classifier, and PPO."""

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.networks.image import ImageNetwork, NetworkConfig
from plasticity.agents.ppo.agent import PPO, Iteration
from plasticity.agents.ppo.config import PRESETS, PPOConfig
from plasticity.agents.ppo.device_environments import DeviceEnvironments, HostEnvironments
from plasticity.agents.ppo.episodes import Episode
from plasticity.agents.ppo.stacked_agent import StackedPPO
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier

__all__ = [
    "PPO",
    "PRESETS",
    "ActorCritic",
    "Classifier",
    "ClassifierConfig",
    "DeviceEnvironments",
    "Episode",
    "HostEnvironments",
    "ImageNetwork",
    "Iteration",
    "NetworkConfig",
    "PPOConfig",
    "StackedClassifier",
    "StackedPPO",
]
