"""Kernels that Warp's walkers have in common: corrections of MuJoCo Warp, parts of a step and of a reset.

This module imports Warp, so that only `warp_physics` and a body's own kernels may import it, when
environments are made. A thread of a walker's kernel handles one environment, and reads no other's data.
"""
# mypy: ignore-errors
# The function bodies are in Warp's language, whose types are not Python's.

import warp as wp

from plasticity.tasks.control.slippery import actions as slippery_actions
from plasticity.tasks.control.slippery import environment as slippery_environment

# No gradients; and loops stay loops, which compile in a fraction of the time.
wp.set_module_options({"enable_backward": False, "max_unroll": 1})

EPISODE_STEPS = wp.constant(slippery_environment.MAX_EPISODE_STEPS)
LARGEST_ACTION = wp.constant(slippery_actions.LARGEST_ACTION)
# Above it, MuJoCo considers a state unstable (mjMAXVAL).
LARGEST = wp.constant(1e10)


@wp.kernel
def align_contacts(
    nacon: wp.array[int],
    worlds: wp.array[int],
    geoms: wp.array[wp.vec2i],
    geom_type: wp.array[int],
    geom_xmat: wp.array2d[wp.mat33],
    plane: int,
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
    if geom_type[geoms[contact][0]] != plane or geom_type[geom] != capsule:
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
class Walkers:
    """Arrays of all walkers, with a row for each, except for what all have in common."""

    # The physics'.
    qpos: wp.array2d[float]
    qvel: wp.array2d[float]
    qacc_warmstart: wp.array2d[float]
    qfrc_actuator: wp.array2d[float]
    xpos: wp.array2d[wp.vec3]
    xipos: wp.array2d[wp.vec3]
    cinert: wp.array3d[float]
    cvel: wp.array2d[wp.spatial_vector]
    cfrc_ext: wp.array2d[wp.spatial_vector]
    geom_friction: wp.array2d[wp.vec3]
    efc_J: wp.array3d[float]
    efc_D: wp.array2d[float]
    # In common: the position before the noise of a reset, and the bodies' shares of the mass.
    initial_qpos: wp.array[float]
    mass_shares: wp.array[float]
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
    # The episodes'. The velocity of `x` is rewarded.
    reset_seeds: wp.array[wp.uint64]
    x: wp.array[float]
    episodes: wp.array[wp.int64]
    episode_steps: wp.array[wp.int64]
    unstable_episodes: wp.array[wp.int64]
    tasks: wp.array[wp.int64]
    frictions: wp.array[float]
    coming_tasks: wp.array[wp.int64]
    coming_frictions: wp.array[float]


@wp.func
def copy_row(env: int, source: wp.array2d[float], target: wp.array2d[float]) -> None:
    """Copy an environment's row."""
    for i in range(target.shape[1]):
        target[env, i] = source[env, i]


# ---- of a step ---------------------------------------------------------------------------------------


@wp.func
def _is_stable(number: float) -> bool:
    # False for nan, too.
    return wp.abs(number) <= LARGEST


@wp.func
def has_stable_state(env: int, walkers: Walkers) -> bool:
    """Return whether positions and velocities are finite, and not too large."""
    stable = wp.bool(True)
    for i in range(walkers.qpos.shape[1]):
        stable = stable and _is_stable(walkers.qpos[env, i])
    for i in range(walkers.qvel.shape[1]):
        stable = stable and _is_stable(walkers.qvel[env, i])
    return stable


@wp.func
def effort(env: int, walkers: Walkers) -> float:
    """Return the sum of the action's squares."""
    total = wp.float32(0.0)
    for i in range(walkers.actions.shape[1]):
        total += walkers.actions[env, i] * walkers.actions[env, i]
    return total


@wp.func
def note_refused(env: int, walkers: Walkers) -> None:
    """Record an environment's first action that the MuJoCo environment refuses."""
    size = wp.float32(0.0)
    for i in range(walkers.actions.shape[1]):
        size += wp.abs(walkers.actions[env, i])
    # False for nan, too.
    if not size <= LARGEST_ACTION and not walkers.refused[env]:
        walkers.refused[env] = True
        for i in range(walkers.actions.shape[1]):
            walkers.refused_actions[env, i] = walkers.actions[env, i]


@wp.func
def lose(env: int, walkers: Walkers) -> None:
    """Count an unstable state, which must not reach a learner: it gets the previous observation."""
    walkers.unstable_episodes[env] += wp.int64(1)
    copy_row(env, walkers.observations, walkers.final_observations)


@wp.func
def end_step(env: int, walkers: Walkers, reward: float, stable: bool, healthy: bool) -> None:
    """Count the step, and write its reward and whether it ends the episode."""
    walkers.episode_steps[env] += wp.int64(1)
    walkers.rewards[env] = reward
    walkers.unstable[env] = not stable
    walkers.terminated[env] = not healthy
    walkers.truncated[env] = walkers.episode_steps[env] >= wp.int64(EPISODE_STEPS)


# ---- of a reset --------------------------------------------------------------------------------------


@wp.func
def _set_friction(env: int, walkers: Walkers) -> None:
    """Set the coefficient of all contacts: MuJoCo uses the larger of floor and walker, so both are set."""
    for geom in range(walkers.geom_friction.shape[1]):
        old = walkers.geom_friction[env, geom]
        walkers.geom_friction[env, geom] = wp.vec3(walkers.frictions[env], old[1], old[2])


@wp.func
def has_ended(env: int, walkers: Walkers) -> bool:
    """Return whether the step was the last one of its episode."""
    return walkers.terminated[env] or walkers.truncated[env]


@wp.func
def begin_episode(env: int, walkers: Walkers) -> wp.uint64:
    """Begin an episode with the coming task, and return its number; its body's kernel sets the state."""
    # The first episode has the number 0, and the counter starts at -1.
    episode = walkers.episodes[env] + wp.int64(1)
    walkers.episodes[env] = episode
    walkers.episode_steps[env] = wp.int64(0)
    walkers.tasks[env] = walkers.coming_tasks[env]
    walkers.frictions[env] = walkers.coming_frictions[env]
    _set_friction(env, walkers)
    for i in range(walkers.qacc_warmstart.shape[1]):
        walkers.qacc_warmstart[env, i] = 0.0
    if walkers.unstable[env]:
        # The solver multiplies unused rows by 0, which does not remove a nan.
        for i in range(walkers.efc_D.shape[1]):
            walkers.efc_D[env, i] = 0.0
        for i in range(walkers.efc_J.shape[1]):
            for j in range(walkers.efc_J.shape[2]):
                walkers.efc_J[env, i, j] = 0.0
    return wp.uint64(episode)


@wp.kernel
def restore_frictions(walkers: Walkers) -> None:
    """Set every environment's friction to that of its episode."""
    _set_friction(wp.tid(), walkers)
