"""Networks trained by the learners: a file for each architecture."""

from plasticity.agents.networks.base import NETWORKS, Network, network

# In the order in which lists have them.
# isort: off
from plasticity.agents.networks.cnn import CNN
from plasticity.agents.networks.mlp import MLP
# isort: on

__all__ = ["CNN", "MLP", "NETWORKS", "Network", "network"]
