"""Learners: networks, the continual classifier, and PPO."""

from plasticity.agents.networks import CNN, MLP, Network
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.agent import PPO, StackedPPO
from plasticity.agents.ppo.base_agent import Iteration
from plasticity.agents.ppo.config import PRESETS, PPOConfig
from plasticity.agents.ppo.environments import Environments
from plasticity.agents.ppo.episodes import Episode
from plasticity.agents.ppo.host_environments import HostEnvironments
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier

__all__ = [
    "CNN",
    "MLP",
    "PPO",
    "PRESETS",
    "ActorCritic",
    "Classifier",
    "ClassifierConfig",
    "Environments",
    "Episode",
    "HostEnvironments",
    "Iteration",
    "Network",
    "PPOConfig",
    "StackedClassifier",
    "StackedPPO",
]
