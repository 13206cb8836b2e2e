"""Learners: networks, the continual classifier, and PPO."""

from plasticity.agents.actor_critic import ActorCritic
from plasticity.agents.classifier import Classifier, ClassifierConfig
from plasticity.agents.device_environments import DeviceEnvironments, HostEnvironments
from plasticity.agents.networks import ImageNetwork, NetworkConfig
from plasticity.agents.ppo import PPO, Iteration
from plasticity.agents.ppo_config import PRESETS, PPOConfig
from plasticity.agents.replica_classifier import ReplicaClassifier
from plasticity.agents.replica_ppo import ReplicaPPO
from plasticity.agents.running_episodes import Episode

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
    "ReplicaClassifier",
    "ReplicaPPO",
]
