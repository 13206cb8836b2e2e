"""Kernels of the Warp ant: its observation, reward and start.

This module imports Warp, so that only `WarpPhysics` may import it, when environments are made.
Each thread handles one environment; no thread reads another environment's data.
"""
# mypy: ignore-errors
# The function bodies are in Warp's language, whose types are not Python's.

import warp as wp

from plasticity.tasks.control.ant import mujoco as ant_mujoco
from plasticity.tasks.control.slippery.warp_kernels import (
    Walkers,
    begin_episode,
    copy_row,
    effort,
    end_step,
    has_ended,
    has_stable_state,
    lose,
    note_refused,
)
from plasticity.tasks.control.slippery.warp_random import random_block, uniform, uniform_noise

# No gradients; and loops stay loops, which compile in a fraction of the time.
wp.set_module_options({"enable_backward": False, "max_unroll": 1})

STEP_SECONDS = wp.constant(ant_mujoco.STEP_SECONDS)
CONTROL_COST = wp.constant(ant_mujoco.CONTROL_COST)
CONTACT_COST = wp.constant(ant_mujoco.CONTACT_COST)
CONTACT_FORCE_LIMIT = wp.constant(ant_mujoco.CONTACT_FORCE_LIMIT)
RESET_NOISE = wp.constant(ant_mujoco.RESET_NOISE)
MIN_HEIGHT = wp.constant(ant_mujoco.HEALTHY_HEIGHTS[0])
MAX_HEIGHT = wp.constant(ant_mujoco.HEALTHY_HEIGHTS[1])
NUM_POSITIONS = wp.constant(15)
NUM_VELOCITIES = wp.constant(14)
NUM_BODIES = wp.constant(14)
# The x and y of the torso are not observed.
SKIPPED_POSITIONS = wp.constant(2)
NUM_STATE = wp.constant(27)


@wp.func
def _observe_state(env: int, ants: Walkers, observations: wp.array2d[float]) -> None:
    """Write the observation of an ant's position and velocity."""
    for i in range(NUM_POSITIONS - SKIPPED_POSITIONS):
        observations[env, i] = ants.qpos[env, i + SKIPPED_POSITIONS]
    for i in range(NUM_VELOCITIES):
        observations[env, NUM_POSITIONS - SKIPPED_POSITIONS + i] = ants.qvel[env, i]


@wp.kernel
def finish_step(ants: Walkers) -> None:
    """Compute observation, reward and ending as `Ant-v5` does."""
    env = wp.tid()
    stable = has_stable_state(env, ants)
    height = ants.qpos[env, 2]
    healthy = stable and height >= MIN_HEIGHT and height <= MAX_HEIGHT

    note_refused(env, ants)
    reward = -CONTROL_COST * effort(env, ants)
    if stable:
        _observe_state(env, ants, ants.final_observations)
        impact = wp.float32(0.0)
        for body in range(1, NUM_BODIES):
            for i in range(6):
                force = wp.clamp(
                    ants.cfrc_ext[env, body][i], -CONTACT_FORCE_LIMIT, CONTACT_FORCE_LIMIT
                )
                impact += force * force
                if ants.observations.shape[1] > NUM_STATE:
                    ants.final_observations[env, NUM_STATE + 6 * (body - 1) + i] = force
        x = ants.xpos[env, 1][0]
        reward += (x - ants.x[env]) / STEP_SECONDS - CONTACT_COST * impact
        ants.x[env] = x
    else:
        lose(env, ants)
    if healthy:
        reward += 1.0
    end_step(env, ants, reward, stable, healthy)


@wp.kernel
def begin_episodes(ants: Walkers) -> None:
    """Reset, as `Ant-v5` does, the environments whose episode ended; the others keep their observations."""
    env = wp.tid()
    if not has_ended(env, ants):
        copy_row(env, ants.final_observations, ants.observations)
        return

    episode = begin_episode(env, ants)
    seed = ants.reset_seeds[env]
    for i in range(NUM_POSITIONS):
        ants.qpos[env, i] = ants.initial_qpos[i] + uniform_noise(seed, episode, i, RESET_NOISE)
    for i in range(NUM_VELOCITIES // 2):
        # Box-Muller: two uniform numbers give two normal ones.
        bits = random_block(seed, episode, 4 + i // 2)
        radius = wp.sqrt(-2.0 * wp.log(uniform(bits[2 * (i % 2)])))
        angle = 2.0 * wp.pi * uniform(bits[2 * (i % 2) + 1])
        ants.qvel[env, 2 * i] = RESET_NOISE * radius * wp.cos(angle)
        ants.qvel[env, 2 * i + 1] = RESET_NOISE * radius * wp.sin(angle)
    ants.x[env] = ants.qpos[env, 0]

    _observe_state(env, ants, ants.observations)
    for i in range(NUM_STATE, ants.observations.shape[1]):
        ants.observations[env, i] = 0.0
