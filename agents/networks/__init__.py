"""Networks trained by the learners: a file for each architecture."""

from plasticity.agents.networks.base import NETWORKS, Network, network

# A line for each architecture, in the order in which lists have them.
# isort: off
from plasticity.agents.networks.cnn import CNN as CNN
from plasticity.agents.networks.mlp import MLP as MLP
from plasticity.agents.networks.resnet import ResNet as ResNet
from plasticity.agents.networks.vgg import VGG as VGG
from plasticity.agents.networks.vit import ViT as ViT
# isort: on

__all__ = ["NETWORKS", "Network", "network"]
