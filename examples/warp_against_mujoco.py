"""Compare the ant in MuJoCo Warp with that in MuJoCo: single steps, and distributions of episodes.

First, one step of the environment (five of the physics) from states reached by random actions, on floors
of several frictions; MuJoCo computes in float64 and Warp in float32. For scale, "rounded" shows how much
MuJoCo's own step changes if its state is moved to a neighbouring float32 at first, and rounded after each
of the five. Warp is shown as `SlipperyAntWarp` uses it ("warp"), without the second solution for the
contact forces ("one solution"), and as in MuJoCo Warp itself ("as is"), where contacts of steep legs also
have other tangents.

Then whole episodes with one random policy: means of return and length, Welch's 95 % interval of their
difference, and the p-value of the two-sample Kolmogorov-Smirnov test.

    python examples/warp_against_mujoco.py --episodes 32 --limit 100           # a minute
    python examples/warp_against_mujoco.py --states 2500 --episodes 300        # half an hour of one core
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from plasticity.tasks import SlipperyAntMujocoEnv
from plasticity.tasks.control.ant.mujoco import FRAME_SKIP, HEALTHY_HEIGHTS, RESET_NOISE, load_ant
from plasticity.tasks.control.ant.warp import WARP_ANT, SlipperyAntWarp
from plasticity.tasks.control.slippery.environment import MAX_EPISODE_STEPS
from plasticity.tasks.control.slippery.warp_physics import WarpPhysics

Array = NDArray[np.float64]

VARIANTS = ("rounded", "warp", "one solution", "as is")
LARGE = 1e-4
"""Velocity error, in m/s or rad/s, above which a step counts as different."""


@dataclass
class States:
    """States and the controls applied in them, with an entry per state; all are float32 numbers."""

    qpos: Array
    qvel: Array
    warmstart: Array
    ctrl: Array

    def __len__(self) -> int:
        return len(self.qpos)


def in_float32(array: Array) -> Array:
    """Round to float32."""
    return array.astype(np.float32).astype(np.float64)


def neighbour(array: Array, rng: np.random.Generator) -> Array:
    """Move each float32 number to the next one, up or down at random."""
    spacing = np.spacing(array.astype(np.float32)).astype(np.float64)
    return array + rng.choice([-1, 1], array.shape) * spacing


def visited_states(model: Any, number: int, rng: np.random.Generator) -> States:
    """Sample states reached by random actions."""
    data = mujoco.MjData(model)
    found: list[tuple[Array, ...]] = []
    while len(found) < number:
        mujoco.mj_resetData(model, data)
        data.qpos[:] += rng.uniform(-RESET_NOISE, RESET_NOISE, model.nq)
        data.qvel[:] = RESET_NOISE * rng.standard_normal(model.nv)
        for _ in range(100):
            ctrl = in_float32(rng.uniform(-1, 1, model.nu))
            if rng.random() < 0.25:
                arrays = (data.qpos, data.qvel, data.qacc_warmstart)
                found.append((*map(in_float32, arrays), ctrl))
            data.ctrl[:] = ctrl
            mujoco.mj_step(model, data, FRAME_SKIP)
            if not HEALTHY_HEIGHTS[0] <= data.qpos[2] <= HEALTHY_HEIGHTS[1]:
                break
    return States(*(np.stack(column) for column in zip(*found[:number], strict=True)))


def mujoco_step(
    model: Any, states: States, rounding: np.random.Generator | None = None
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Make one step in MuJoCo; return positions, velocities, and whether anything touched the floor.

    With `rounding`, the state is moved to a neighbouring float32 at first, and rounded after each step.
    """
    data = mujoco.MjData(model)
    ends, touched = [], []
    for i in range(len(states)):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = states.qpos[i], states.qvel[i]
        data.qacc_warmstart[:], data.ctrl[:] = states.warmstart[i], states.ctrl[i]
        if rounding is not None:
            data.qpos[:] = neighbour(data.qpos, rounding)
            data.qvel[:] = neighbour(data.qvel, rounding)
        touches = False
        for _ in range(FRAME_SKIP):
            mujoco.mj_step(model, data)
            touches |= data.ncon > 0
            if rounding is not None:
                data.qpos[:], data.qvel[:] = in_float32(data.qpos), in_float32(data.qvel)
        ends.append((data.qpos.copy(), data.qvel.copy()))
        touched.append(touches)
    qpos, qvel = (np.stack(column) for column in zip(*ends, strict=True))
    return qpos, qvel, np.array(touched)


def warp_step(
    states: States, friction: float, *, refine: bool, align: bool, device: str
) -> tuple[Array, Array]:
    """Make one step in MuJoCo Warp; return positions and velocities."""
    physics = WarpPhysics(WARP_ANT, len(states), device, refine=refine)
    if not align:
        physics.model.callback.contactfilter = None
    inputs = {
        "qpos": states.qpos,
        "qvel": states.qvel,
        "qacc_warmstart": states.warmstart,
        "ctrl": states.ctrl,
    }
    for name, array in inputs.items():
        physics.tensor(getattr(physics.data, name)).copy_(torch.from_numpy(array))
    physics.tensor(physics.model.geom_friction)[:, :, 0] = friction
    if device != "cpu":
        torch.cuda.synchronize()
    with physics.warp.ScopedDevice(physics.warp_device):
        physics.step()
        physics.warp.synchronize()
    physics.check()
    qpos, qvel = (
        physics.tensor(array).cpu().double().numpy()
        for array in (physics.data.qpos, physics.data.qvel)
    )
    return qpos, qvel


@dataclass
class Deviations:
    """Deviations of steps from MuJoCo's, by variant: the largest absolute entry for each state."""

    positions: dict[str, Array]
    velocities: dict[str, Array]
    touched: NDArray[np.bool_]


def compare_steps(friction: float, number: int, seed: int, device: str = "cpu") -> Deviations:
    """Make the same step with all variants."""
    model = load_ant()
    model.geom_friction[:, 0] = np.float32(friction)
    rng = np.random.default_rng(seed)
    states = visited_states(model, number, rng)
    qpos, qvel, touched = mujoco_step(model, states)
    found = {
        "rounded": mujoco_step(model, states, rng)[:2],
        "warp": warp_step(states, friction, refine=True, align=True, device=device),
        "one solution": warp_step(states, friction, refine=False, align=True, device=device),
        "as is": warp_step(states, friction, refine=False, align=False, device=device),
    }
    return Deviations(
        {name: np.abs(found[name][0] - qpos).max(axis=1) for name in VARIANTS},
        {name: np.abs(found[name][1] - qvel).max(axis=1) for name in VARIANTS},
        touched,
    )


class Policy:
    """Random policy: linear in the observation, with noise, and actions in [-1, 1]."""

    def __init__(self, seed: int = 0) -> None:
        self._weights = torch.from_numpy(np.random.default_rng(seed).standard_normal((27, 8)))

    def __call__(self, observations: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return actions for observations, (number, 27), and standard normal numbers, (number, 8)."""
        weights = self._weights.to(observations)
        return torch.tanh(0.2 * observations @ weights + noise.to(observations))


def warp_episodes(
    friction: float, number: int, seed: int, limit: int, device: str = "cpu"
) -> Array:
    """Run one episode, up to a limit, for each ant; give its return and length. Shape: (number, 2)."""
    envs = SlipperyAntWarp(
        number, reset_seeds=range(seed, seed + number), friction=friction, device=device
    )
    policy, generator = Policy(), torch.Generator().manual_seed(seed)
    observations = envs.reset()
    sums, running = np.zeros((number, 2)), np.ones(number, bool)
    for _ in range(limit):
        if not running.any():
            break
        actions = policy(observations, torch.randn(number, 8, generator=generator))
        step = envs.step(actions)
        observations = step.observations
        sums[running, 0] += step.rewards.cpu().numpy()[running]
        sums[running, 1] += 1
        running &= ~(step.terminated | step.truncated).cpu().numpy()
    envs.check()
    return sums


def mujoco_episodes(friction: float, number: int, seed: int, limit: int) -> Array:
    """Run a number of episodes, up to a limit; give their returns and lengths. Shape: (number, 2)."""
    env = SlipperyAntMujocoEnv(friction)
    policy, generator = Policy(), torch.Generator().manual_seed(seed)
    sums = np.zeros((number, 2))
    for episode in range(number):
        observation, _ = env.reset(seed=seed + episode)
        for _ in range(limit):
            noise = torch.randn(1, 8, generator=generator)
            action = policy(torch.from_numpy(observation)[None].float(), noise)[0].numpy()
            observation, reward, terminated, truncated, _ = env.step(action)
            sums[episode] += reward, 1
            if terminated or truncated:
                break
    env.close()
    return sums


def compare_samples(ours: Array, theirs: Array) -> tuple[float, float, float, float, float]:
    """Compute both means, the 95 % interval of their difference, and the p-value for equal distributions."""
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    p_value = stats.ks_2samp(ours, theirs).pvalue
    return ours.mean(), theirs.mean(), interval.low, interval.high, p_value


def print_steps(frictions: Sequence[float], number: int, device: str) -> None:
    """Print a table of the deviations."""
    print(f"One step from {number} states; errors are the largest entry for each state.")
    print(
        f"{'friction':>8} {'contact':>7}  {'variant':<12} {'positions: median, 99 %, max':^30} "
        f"{'velocities: median, 99 %, max':^30} over {LARGE:g}"
    )
    for friction in frictions:
        found = compare_steps(friction, number, seed=0, device=device)
        for name in VARIANTS:
            errors = (found.positions[name], found.velocities[name])
            columns = " ".join(
                f"{quantile:9.1e}"
                for error in errors
                for quantile in np.quantile(error, (0.5, 0.99, 1.0))
            )
            share = (found.velocities[name] > LARGE).mean()
            print(
                f"{friction:8g} {found.touched.mean():7.0%}  {name:<12} {columns}   {share:8.2%}",
                flush=True,
            )


def print_episodes(frictions: Sequence[float], number: int, limit: int, device: str) -> None:
    """Print a table of the distributions."""
    print(f"{number} episodes with one random policy, of up to {limit} steps.")
    print(f"{'friction':>8} {'':<7} {'Warp':>9} {'MuJoCo':>9} {'difference, 95 %':>22} {'KS p':>7}")
    for friction in frictions:
        ours = warp_episodes(friction, number, 0, limit, device)
        theirs = mujoco_episodes(friction, number, 10**6, limit)
        for column, name in enumerate(("return", "length")):
            mean, other, low, high, p_value = compare_samples(ours[:, column], theirs[:, column])
            interval = f"[{low:.2f}, {high:.2f}]"
            print(
                f"{friction:8g} {name:<7} {mean:9.2f} {other:9.2f} {interval:>22} {p_value:7.3f}",
                flush=True,
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", type=int, default=200, help="states per friction; 0: none")
    parser.add_argument("--episodes", type=int, default=16, help="episodes per friction; 0: none")
    parser.add_argument(
        "--limit", type=int, default=MAX_EPISODE_STEPS, help="maximum steps per episode"
    )
    parser.add_argument("--frictions", type=float, nargs="+", default=[0.02, 0.2, 1.0, 2.0])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.states:
        print_steps(options.frictions, options.states, options.device)
    if options.episodes:
        print_episodes(options.frictions, options.episodes, options.limit, options.device)


if __name__ == "__main__":
    main()
