"""Learners: networks and the continual classifier."""

from plasticity.agents.classifier import Classifier, ClassifierConfig
from plasticity.agents.networks import ImageNetwork, NetworkConfig

__all__ = ["Classifier", "ClassifierConfig", "ImageNetwork", "NetworkConfig"]
