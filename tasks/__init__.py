"""Streams of tasks, their datasets and their environments."""

import gymnasium

from plasticity.tasks.control.ant.bullet import SlipperyAntBulletEnv
from plasticity.tasks.control.ant.engines import ENGINES, slippery_ant_vector
from plasticity.tasks.control.ant.mujoco import SlipperyAntMujocoEnv
from plasticity.tasks.control.humanoid.mujoco import SlipperyHumanoidEnv
from plasticity.tasks.control.slippery.environment import MAX_EPISODE_STEPS
from plasticity.tasks.control.slippery.friction import (
    SCHEDULES,
    FrictionStream,
    FrictionTask,
    task_friction,
)
from plasticity.tasks.datasets.downloads import DownloadError
from plasticity.tasks.datasets.images import DATASETS, ImageDataset, load_dataset
from plasticity.tasks.streams.base import Stream, SupervisedStream, TaskSpec, stack
from plasticity.tasks.streams.permuted_images import ImageTask, PermutedImages
from plasticity.tasks.vector.environments import VectorEnvironments

__all__ = [
    "DATASETS",
    "ENGINES",
    "SCHEDULES",
    "DownloadError",
    "FrictionStream",
    "FrictionTask",
    "ImageDataset",
    "ImageTask",
    "PermutedImages",
    "SlipperyAntBulletEnv",
    "SlipperyAntMujocoEnv",
    "SlipperyHumanoidEnv",
    "Stream",
    "SupervisedStream",
    "TaskSpec",
    "VectorEnvironments",
    "load_dataset",
    "slippery_ant_vector",
    "stack",
    "task_friction",
]

# Gymnasium loads no plugins: code that has only the id, such as a worker process, must also be given the
# module that registers it, as in "plasticity.tasks:plasticity/SlipperyAntBullet-v0".
gymnasium.register(
    "plasticity/SlipperyAntBullet-v0",
    entry_point="plasticity.tasks.control.ant.bullet:SlipperyAntBulletEnv",
    max_episode_steps=MAX_EPISODE_STEPS,
)

gymnasium.register(
    "plasticity/SlipperyAntMujoco-v0",
    entry_point="plasticity.tasks.control.ant.mujoco:SlipperyAntMujocoEnv",
    max_episode_steps=MAX_EPISODE_STEPS,
)

gymnasium.register(
    "plasticity/SlipperyHumanoid-v0",
    entry_point="plasticity.tasks.control.humanoid.mujoco:SlipperyHumanoidEnv",
    max_episode_steps=MAX_EPISODE_STEPS,
)
