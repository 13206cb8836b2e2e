"""Kernels of the Warp humanoid: its observation, reward and start.

This module imports Warp, so that only `WarpPhysics` may import it, when environments are made.
Each thread handles one environment; no thread reads another environment's data.
"""
# mypy: ignore-errors
# The function bodies are in Warp's language, whose types are not Python's.

import warp as wp

from plasticity.tasks.control.humanoid import mujoco as humanoid_mujoco
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
from plasticity.tasks.control.slippery.warp_random import uniform_noise

# No gradients; and loops stay loops, which compile in a fraction of the time.
wp.set_module_options({"enable_backward": False, "max_unroll": 1})

STEP_SECONDS = wp.constant(humanoid_mujoco.STEP_SECONDS)
FORWARD_REWARD = wp.constant(humanoid_mujoco.FORWARD_REWARD)
HEALTHY_REWARD = wp.constant(humanoid_mujoco.HEALTHY_REWARD)
CONTROL_COST = wp.constant(humanoid_mujoco.CONTROL_COST)
CONTACT_COST = wp.constant(humanoid_mujoco.CONTACT_COST)
LARGEST_CONTACT_COST = wp.constant(humanoid_mujoco.LARGEST_CONTACT_COST)
RESET_NOISE = wp.constant(humanoid_mujoco.RESET_NOISE)
MIN_HEIGHT = wp.constant(humanoid_mujoco.HEALTHY_HEIGHTS[0])
MAX_HEIGHT = wp.constant(humanoid_mujoco.HEALTHY_HEIGHTS[1])
NUM_POSITIONS = wp.constant(24)
NUM_VELOCITIES = wp.constant(23)
NUM_BODIES = wp.constant(14)
# The x and y of the torso are not observed, nor the world, nor motors of the torso, which has none.
SKIPPED_POSITIONS = wp.constant(2)
ROOT_VELOCITIES = wp.constant(6)
INERTIA_SIZE = wp.constant(10)


@wp.func
def _center(env: int, humanoids: Walkers) -> float:
    """Return the x of the center of mass; relative to the torso at first, which rounds less."""
    torso = humanoids.xpos[env, 1][0]
    ahead = wp.float32(0.0)
    for body in range(1, NUM_BODIES):
        ahead += humanoids.mass_shares[body] * (humanoids.xipos[env, body][0] - torso)
    return torso + ahead


@wp.func
def _observe(env: int, humanoids: Walkers, observations: wp.array2d[float]) -> None:
    """Write the observation, from the state and from what the physics computed last."""
    column = wp.int32(0)
    for i in range(SKIPPED_POSITIONS, NUM_POSITIONS):
        observations[env, column] = humanoids.qpos[env, i]
        column += 1
    for i in range(NUM_VELOCITIES):
        observations[env, column] = humanoids.qvel[env, i]
        column += 1
    for body in range(1, NUM_BODIES):
        for i in range(INERTIA_SIZE):
            observations[env, column] = humanoids.cinert[env, body, i]
            column += 1
    for body in range(1, NUM_BODIES):
        for i in range(6):
            observations[env, column] = humanoids.cvel[env, body][i]
            column += 1
    for i in range(ROOT_VELOCITIES, NUM_VELOCITIES):
        observations[env, column] = humanoids.qfrc_actuator[env, i]
        column += 1
    for body in range(1, NUM_BODIES):
        for i in range(6):
            observations[env, column] = humanoids.cfrc_ext[env, body][i]
            column += 1


@wp.kernel
def finish_step(humanoids: Walkers) -> None:
    """Compute observation, reward and ending as `Humanoid-v5` does."""
    env = wp.tid()
    stable = has_stable_state(env, humanoids)
    height = humanoids.qpos[env, 2]
    healthy = stable and height > MIN_HEIGHT and height < MAX_HEIGHT

    note_refused(env, humanoids)
    reward = -CONTROL_COST * effort(env, humanoids)
    if stable:
        _observe(env, humanoids, humanoids.final_observations)
        impact = wp.float32(0.0)
        for body in range(1, NUM_BODIES):
            force = humanoids.cfrc_ext[env, body]
            impact += wp.dot(force, force)
        x = _center(env, humanoids)
        reward += FORWARD_REWARD * ((x - humanoids.x[env]) / STEP_SECONDS)
        reward -= wp.min(CONTACT_COST * impact, LARGEST_CONTACT_COST)
        humanoids.x[env] = x
    else:
        lose(env, humanoids)
    if healthy:
        reward += HEALTHY_REWARD
    end_step(env, humanoids, reward, stable, healthy)


@wp.kernel
def begin_episodes(humanoids: Walkers) -> None:
    """Reset, as `Humanoid-v5` does, the environments whose episode ended; the others are observed."""
    env = wp.tid()
    if not has_ended(env, humanoids):
        copy_row(env, humanoids.final_observations, humanoids.observations)
        return

    episode = begin_episode(env, humanoids)
    seed = humanoids.reset_seeds[env]
    for i in range(NUM_POSITIONS):
        noise = uniform_noise(seed, episode, i, RESET_NOISE)
        humanoids.qpos[env, i] = humanoids.initial_qpos[i] + noise
    for i in range(NUM_VELOCITIES):
        humanoids.qvel[env, i] = uniform_noise(seed, episode, NUM_POSITIONS + i, RESET_NOISE)
        humanoids.qfrc_actuator[env, i] = 0.0
    for body in range(NUM_BODIES):
        humanoids.cfrc_ext[env, body] = wp.spatial_vector()


@wp.kernel
def observe_starts(humanoids: Walkers) -> None:
    """Observe the episodes that begin, once the physics knows where the parts of each body are."""
    env = wp.tid()
    if has_ended(env, humanoids):
        humanoids.x[env] = _center(env, humanoids)
        _observe(env, humanoids, humanoids.observations)
