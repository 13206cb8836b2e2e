"""Kernels of the Warp ant: the rest of an environment step after the physics, and resets.

This module imports Warp, so that only `warp_physics` may import it, when environments are made.
Each thread handles one environment; no thread reads another environment's data.
"""
# mypy: ignore-errors
# The function bodies are in Warp's language, whose types are not Python's.

import warp as wp

from plasticity.tasks.control.ant import mujoco as ant_mujoco
from plasticity.tasks.control.slippery import actions as slippery_actions
from plasticity.tasks.control.slippery import environment as slippery_environment

# No gradients; and loops stay loops, which compile in a fraction of the time.
wp.set_module_options({"enable_backward": False, "max_unroll": 1})

STEP_SECONDS = wp.constant(ant_mujoco.STEP_SECONDS)
CONTROL_COST = wp.constant(ant_mujoco.CONTROL_COST)
CONTACT_COST = wp.constant(ant_mujoco.CONTACT_COST)
CONTACT_FORCE_LIMIT = wp.constant(ant_mujoco.CONTACT_FORCE_LIMIT)
RESET_NOISE = wp.constant(ant_mujoco.RESET_NOISE)
MIN_HEIGHT = wp.constant(ant_mujoco.HEALTHY_HEIGHTS[0])
MAX_HEIGHT = wp.constant(ant_mujoco.HEALTHY_HEIGHTS[1])
EPISODE_STEPS = wp.constant(slippery_environment.MAX_EPISODE_STEPS)
LARGEST_ACTION = wp.constant(slippery_actions.LARGEST_ACTION)
# Above it, MuJoCo considers a state unstable (mjMAXVAL).
LARGEST = wp.constant(1e10)
NUM_POSITIONS = wp.constant(15)
NUM_VELOCITIES = wp.constant(14)
NUM_ACTIONS = wp.constant(8)
NUM_BODIES = wp.constant(14)
# The x and y of the torso are not observed.
SKIPPED_POSITIONS = wp.constant(2)
NUM_STATE = wp.constant(27)

# Philox 4x32: J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
PHILOX_MULTIPLIER_0 = wp.constant(wp.uint64(0xD2511F53))
PHILOX_MULTIPLIER_1 = wp.constant(wp.uint64(0xCD9E8D57))
PHILOX_WEYL_0 = wp.constant(wp.uint32(0x9E3779B9))
PHILOX_WEYL_1 = wp.constant(wp.uint32(0xBB67AE85))
PHILOX_ROUNDS = wp.constant(10)


@wp.func
def _low(number: wp.uint64) -> wp.uint32:
    return wp.uint32(number & wp.uint64(0xFFFFFFFF))


@wp.func
def _high(number: wp.uint64) -> wp.uint32:
    return wp.uint32(number >> wp.uint64(32))


@wp.func
def philox(counter: wp.vec4ui, key: wp.uint64) -> wp.vec4ui:
    """Return 128 random bits, a pure function of counter and key."""
    key_0 = _low(key)
    key_1 = _high(key)
    for _ in range(PHILOX_ROUNDS):
        product_0 = PHILOX_MULTIPLIER_0 * wp.uint64(counter[0])
        product_1 = PHILOX_MULTIPLIER_1 * wp.uint64(counter[2])
        counter = wp.vec4ui(
            _high(product_1) ^ counter[1] ^ key_0,
            _low(product_1),
            _high(product_0) ^ counter[3] ^ key_1,
            _low(product_0),
        )
        key_0 += PHILOX_WEYL_0
        key_1 += PHILOX_WEYL_1
    return counter


@wp.func
def _bits(seed: wp.uint64, episode: wp.uint64, block: int) -> wp.vec4ui:
    return philox(wp.vec4ui(wp.uint32(block), wp.uint32(0), _low(episode), _high(episode)), seed)


@wp.func
def _uniform(bits: wp.uint32) -> float:
    """Return a float in (0, 1): the midpoint of one of 2^23 equal intervals, exact in float32."""
    return (float(bits >> wp.uint32(9)) + 0.5) * 1.1920928955078125e-07


@wp.func
def _is_stable(number: float) -> bool:
    # False for nan, too.
    return wp.abs(number) <= LARGEST


@wp.kernel
def random_bits(
    seeds: wp.array[wp.uint64], counters: wp.array[wp.vec4ui], bits: wp.array[wp.vec4ui]
) -> None:
    """Write the raw output of Philox, for its test."""
    i = wp.tid()
    bits[i] = philox(counters[i], seeds[i])


@wp.kernel
def align_contacts(
    nacon: wp.array[int],
    worlds: wp.array[int],
    geoms: wp.array[wp.vec2i],
    geom_type: wp.array[int],
    geom_xmat: wp.array2d[wp.mat33],
    capsule: int,
    frames: wp.array[wp.mat33],
) -> None:
    """Align the first tangent of a capsule's contact with the floor with the capsule, however steep it is.

    MuJoCo does the same. MuJoCo Warp 4.0.0 uses the y axis if the capsule is more than 60 degrees from the
    floor, which rotates the friction pyramid: a difference of up to 2 m/s after one step.
    """
    contact = wp.tid()
    if contact >= nacon[0]:
        return
    geom = geoms[contact][1]
    if geom_type[geom] != capsule:
        return
    turn = geom_xmat[worlds[contact], geom]
    axis = wp.vec3(turn[0, 2], turn[1, 2], turn[2, 2])
    old = frames[contact]
    normal = wp.vec3(old[0, 0], old[0, 1], old[0, 2])
    along = axis - normal * wp.dot(normal, axis)
    length = wp.length(along)
    if length < 1e-15:
        return
    along = along / length
    across = wp.cross(normal, along)
    frames[contact] = wp.matrix_from_rows(normal, along, across)


@wp.kernel
def note_needs(
    ncollision: wp.array[int], nacon: wp.array[int], nefc: wp.array[int], needs: wp.array[int]
) -> None:
    """Record the maxima over all evaluations: contacts of all environments, and rows of a single one."""
    env = wp.tid()
    if env == 0:
        needs[0] = wp.max(needs[0], wp.max(ncollision[0], nacon[0]))
    wp.atomic_max(needs, 1, nefc[env])


@wp.struct
class Ants:
    """Arrays of all ants, with a row for each, except for the position before the noise of a reset."""

    # The physics'.
    qpos: wp.array2d[float]
    qvel: wp.array2d[float]
    qacc_warmstart: wp.array2d[float]
    xpos: wp.array2d[wp.vec3]
    cfrc_ext: wp.array2d[wp.spatial_vector]
    geom_friction: wp.array2d[wp.vec3]
    efc_J: wp.array3d[float]
    efc_D: wp.array2d[float]
    initial_qpos: wp.array[float]
    # The step's: its actions, and its results.
    actions: wp.array2d[float]
    observations: wp.array2d[float]
    rewards: wp.array[float]
    terminated: wp.array[bool]
    truncated: wp.array[bool]
    final_observations: wp.array2d[float]
    unstable: wp.array[bool]
    refused: wp.array[bool]
    refused_actions: wp.array2d[float]
    # The episodes'.
    reset_seeds: wp.array[wp.uint64]
    torso_x: wp.array[float]
    episodes: wp.array[wp.int64]
    episode_steps: wp.array[wp.int64]
    unstable_episodes: wp.array[wp.int64]
    tasks: wp.array[wp.int64]
    frictions: wp.array[float]
    coming_tasks: wp.array[wp.int64]
    coming_frictions: wp.array[float]


@wp.func
def _copy(env: int, source: wp.array2d[float], target: wp.array2d[float]) -> None:
    for i in range(target.shape[1]):
        target[env, i] = source[env, i]


@wp.func
def _observe_state(env: int, ants: Ants, observations: wp.array2d[float]) -> None:
    """Write the observation of an ant's position and velocity."""
    for i in range(NUM_POSITIONS - SKIPPED_POSITIONS):
        observations[env, i] = ants.qpos[env, i + SKIPPED_POSITIONS]
    for i in range(NUM_VELOCITIES):
        observations[env, NUM_POSITIONS - SKIPPED_POSITIONS + i] = ants.qvel[env, i]


@wp.func
def _set_friction(env: int, ants: Ants) -> None:
    """Set the coefficient of all contacts: MuJoCo uses the larger of floor and ant, so both are set."""
    for geom in range(ants.geom_friction.shape[1]):
        old = ants.geom_friction[env, geom]
        ants.geom_friction[env, geom] = wp.vec3(ants.frictions[env], old[1], old[2])


@wp.func
def _note_refused(env: int, ants: Ants) -> None:
    """Record an environment's first action that the MuJoCo ant refuses."""
    size = wp.float32(0.0)
    for i in range(NUM_ACTIONS):
        size += wp.abs(ants.actions[env, i])
    # False for nan, too.
    if not size <= LARGEST_ACTION and not ants.refused[env]:
        ants.refused[env] = True
        for i in range(NUM_ACTIONS):
            ants.refused_actions[env, i] = ants.actions[env, i]


@wp.kernel
def finish_step(ants: Ants) -> None:
    """Compute observation, reward and ending as `Ant-v5` does."""
    env = wp.tid()
    stable = wp.bool(True)
    for i in range(NUM_POSITIONS):
        stable = stable and _is_stable(ants.qpos[env, i])
    for i in range(NUM_VELOCITIES):
        stable = stable and _is_stable(ants.qvel[env, i])
    height = ants.qpos[env, 2]
    healthy = stable and height >= MIN_HEIGHT and height <= MAX_HEIGHT

    effort = wp.float32(0.0)
    for i in range(NUM_ACTIONS):
        effort += ants.actions[env, i] * ants.actions[env, i]
    _note_refused(env, ants)
    reward = -CONTROL_COST * effort
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
        reward += (x - ants.torso_x[env]) / STEP_SECONDS - CONTACT_COST * impact
        ants.torso_x[env] = x
    else:
        # An unstable state must not reach a learner, which gets the previous observation.
        ants.unstable_episodes[env] += wp.int64(1)
        _copy(env, ants.observations, ants.final_observations)
    if healthy:
        reward += 1.0

    ants.episode_steps[env] += wp.int64(1)
    ants.rewards[env] = reward
    ants.unstable[env] = not stable
    ants.terminated[env] = not healthy
    ants.truncated[env] = ants.episode_steps[env] >= wp.int64(EPISODE_STEPS)


@wp.kernel
def begin_episodes(ants: Ants) -> None:
    """Reset, as `Ant-v5` does, the environments whose episode ended; the others keep their observations."""
    env = wp.tid()
    if not (ants.terminated[env] or ants.truncated[env]):
        _copy(env, ants.final_observations, ants.observations)
        return

    # The number of the episode that begins now: the first has 0, and the counter starts at -1.
    episode = ants.episodes[env] + wp.int64(1)
    ants.episodes[env] = episode
    ants.episode_steps[env] = wp.int64(0)
    ants.tasks[env] = ants.coming_tasks[env]
    ants.frictions[env] = ants.coming_frictions[env]
    _set_friction(env, ants)
    for i in range(NUM_POSITIONS):
        bits = _bits(ants.reset_seeds[env], wp.uint64(episode), i // 4)
        noise = RESET_NOISE * (2.0 * _uniform(bits[i % 4]) - 1.0)
        ants.qpos[env, i] = ants.initial_qpos[i] + noise
    for i in range(NUM_VELOCITIES // 2):
        # Box-Muller: two uniform numbers give two normal ones.
        bits = _bits(ants.reset_seeds[env], wp.uint64(episode), 4 + i // 2)
        radius = wp.sqrt(-2.0 * wp.log(_uniform(bits[2 * (i % 2)])))
        angle = 2.0 * wp.pi * _uniform(bits[2 * (i % 2) + 1])
        ants.qvel[env, 2 * i] = RESET_NOISE * radius * wp.cos(angle)
        ants.qvel[env, 2 * i + 1] = RESET_NOISE * radius * wp.sin(angle)
    for i in range(NUM_VELOCITIES):
        ants.qacc_warmstart[env, i] = 0.0
    ants.torso_x[env] = ants.qpos[env, 0]

    _observe_state(env, ants, ants.observations)
    for i in range(NUM_STATE, ants.observations.shape[1]):
        ants.observations[env, i] = 0.0

    if ants.unstable[env]:
        # The solver multiplies unused rows by 0, which does not remove a nan.
        for i in range(ants.efc_D.shape[1]):
            ants.efc_D[env, i] = 0.0
        for i in range(ants.efc_J.shape[1]):
            for j in range(ants.efc_J.shape[2]):
                ants.efc_J[env, i, j] = 0.0


@wp.kernel
def restore_frictions(ants: Ants) -> None:
    """Set every environment's friction to that of its episode."""
    _set_friction(wp.tid(), ants)
