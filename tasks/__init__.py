"""Streams of tasks."""

import gymnasium

from plasticity.tasks.ant_bullet import MAX_EPISODE_STEPS, SlipperyAntBulletEnv
from plasticity.tasks.downloads import DownloadError
from plasticity.tasks.friction import SCHEDULES, SlipperyAnt, SlipperyAntTask, task_friction
from plasticity.tasks.images import DATASETS, ImageDataset, load_dataset
from plasticity.tasks.permuted import ImageTask, PermutedImages
from plasticity.tasks.vector import VectorEnvironments, slippery_ant_vector

__all__ = [
    "DATASETS",
    "SCHEDULES",
    "DownloadError",
    "ImageDataset",
    "ImageTask",
    "PermutedImages",
    "SlipperyAnt",
    "SlipperyAntBulletEnv",
    "SlipperyAntTask",
    "VectorEnvironments",
    "load_dataset",
    "slippery_ant_vector",
    "task_friction",
]

gymnasium.register(
    "plasticity/SlipperyAntBullet-v0",
    entry_point="plasticity.tasks.ant_bullet:SlipperyAntBulletEnv",
    max_episode_steps=MAX_EPISODE_STEPS,
)
