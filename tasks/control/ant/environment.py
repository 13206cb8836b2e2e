"""Walking ants on floors whose friction changes: what they have in common in every engine."""

from __future__ import annotations

from plasticity.tasks.control.slippery.environment import SlipperyEnv

NUM_JOINTS = 8
"""Joints of the ant, two in each leg; an action has a torque for each."""


class SlipperyAntEnv(SlipperyEnv):
    """Ant with four legs that learns to run, on a floor whose friction changes: all but the physics."""

    num_joints = NUM_JOINTS
