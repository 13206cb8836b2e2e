"""Stable-Baselines3's algorithms as agents of the control benchmarks; its settings import none of it."""

from plasticity.agents.sb3.config import ALGORITHMS, SB3Config, SB3PPOConfig
from plasticity.agents.sb3.continuous import CrossQConfig, SACConfig, TD3Config, TQCConfig
from plasticity.agents.sb3.off_policy import DQNConfig, OffPolicyConfig, QRDQNConfig

__all__ = [
    "ALGORITHMS",
    "CrossQConfig",
    "DQNConfig",
    "OffPolicyConfig",
    "QRDQNConfig",
    "SACConfig",
    "SB3Config",
    "SB3PPOConfig",
    "TD3Config",
    "TQCConfig",
]
