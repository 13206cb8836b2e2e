"""Speed of the training loop on the ant: against Stable-Baselines3's, part by part, with and without syre."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import gymnasium
from stable_baselines3 import PPO as StableBaselines3PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from plasticity.agents import PPO
from plasticity.metrics.tracker import Tracker
from plasticity.mitigations import PLAIN_METHOD, SeededMethod
from plasticity.scripts.bench.ant import OURS, REFERENCE, BulletAlone, play, random_actions
from plasticity.scripts.bench.comparison import CORES, Effort, Requirement, Side, goal_on_cores
from plasticity.scripts.bench.learners import ANT, ANT_SYRE, make_ppo, ppo_config
from plasticity.scripts.bench.rows import Row, ratio_row
from plasticity.scripts.bench.stable_baselines3 import stable_baselines3_ppo
from plasticity.scripts.bench.timing import Times, fastest, torch_threads
from plasticity.tasks import SlipperyAntBulletEnv, VectorEnvironments, slippery_ant_vector

ROLLOUTS_PER_ROW = 10
"""Rollouts for each row of metrics: by default a run has one every 20 480 steps; a rollout has 2048."""

_OURS, _ONE_CORE = f"ours, {CORES} cores", "ours, 1 core"
_REFERENCES: tuple[tuple[str, str, Requirement, float], ...] = (
    (REFERENCE, "AntBulletEnv-v0", "pybullet_envs_gymnasium", 2.5),
    (OURS, "our ant", "pybullet", 1.5),
)
_THEIR_VECTORS: tuple[tuple[type[DummyVecEnv] | type[SubprocVecEnv], bool], ...] = (
    (DummyVecEnv, False),
    (DummyVecEnv, True),
    (SubprocVecEnv, True),
)


def ppo_training(effort: Effort) -> list[Row]:
    """Measure our loop's speed against Stable-Baselines3's (SB3's) PPO, whose fastest setting counts.

    A turn is a rollout of 2048 steps and the update from it, at the published settings on both sides.
    """
    rows = []
    steps = ppo_config(effort).rollout_steps
    row = partial(ratio_row, unit="speed", steps=(steps, steps))
    for env_id, ant, package, goal in _REFERENCES:
        against = f"{_OURS} vs SB3 on {ant}"
        bound = goal_on_cores(goal)
        if unmeasured := effort.unmeasured(against, "speed", bound["goal"], "pybullet", package):
            rows.append(unmeasured)
            continue
        times = _training_times(env_id, effort)
        ours, one_core = times.pop(_OURS), times.pop(_ONE_CORE)
        best = fastest(times)
        bound["note"] = bound["note"] or "its fastest"
        rows += [
            row(f"{against}, {best}", ours=ours, theirs=times[best], **bound),
            *(row(f"… {k}", ours=ours, theirs=v) for k, v in times.items() if k != best),
            row(f"{_ONE_CORE} vs SB3 on {ant}, {best}", ours=one_core, theirs=times[best]),
        ]
    return rows


def ppo_parts(effort: Effort) -> list[Row]:
    """Measure each part's share of our loop's time on two cores, and the loop against Bullet's own speed."""
    limit = f"loop vs Bullet's own step on {CORES} cores: the limit"
    if unmeasured := effort.unmeasured(limit, "speed", None, "pybullet"):
        return [unmeasured]
    steps = ppo_config(effort).rollout_steps
    actions = random_actions(steps // CORES)
    with ExitStack() as stack, torch_threads(1):
        loop = TimedLoop(effort, stack)
        with closing(gymnasium.make(OURS)) as ant:
            ends = play(ant, actions)
        bullet = stack.enter_context(closing(BulletAlone(actions, ends)))
        contenders = {"loop": loop.iterate, "bullet": bullet.play, "track": loop.track}
        times = effort.in_turns(contenders, rounds=9, collect_garbage=True)
    rounds = [
        {**parts, _TRACKING: seconds / ROLLOUTS_PER_ROW}
        for parts, seconds in zip(loop.parts[1:], times["track"], strict=True)
    ]
    totals = [sum(parts.values()) for parts in rounds]
    return [
        *(ratio_row(part, "share", [each[part] for each in rounds], totals) for part in rounds[0]),
        ratio_row(limit, "speed", totals, times["bullet"], steps=(steps, steps)),
    ]


def ppo_tracking(effort: Effort) -> list[Row]:
    """Measure the combined cost of syre and of a run's metrics, against the loop without either."""
    both = "loop with syre and tracking vs neither"
    if unmeasured := effort.unmeasured(both, "time", None, "pybullet"):
        return [unmeasured]
    with ExitStack() as stack, torch_threads(1):
        without = our_agent(effort, stack, CORES)
        regularized = our_agent(effort, stack, CORES, ANT_SYRE)
        contenders = {
            "without": without.iterate,
            "syre": regularized.iterate,
            "track": tracking_of(regularized),
        }
        times = effort.in_turns(contenders, rounds=15, collect_garbage=True)
    tracking = [seconds / ROLLOUTS_PER_ROW for seconds in times["track"]]
    combined = [a + b for a, b in zip(times["syre"], tracking, strict=True)]
    return [
        ratio_row(both, "time", combined, times["without"], 1.03),
        ratio_row("loop with syre vs without", "time", times["syre"], times["without"]),
        ratio_row(_TRACKING, "share", tracking, times["without"]),
    ]


_TRACKING = "tracking, once in ten rollouts"


# ---- our loop ---------------------------------------------------------------------------------------


def our_agent(
    effort: Effort,
    stack: ExitStack,
    cores: int,
    method: SeededMethod = PLAIN_METHOD,
    envs: VectorEnvironments | None = None,
) -> PPO:
    """Return our agent on some cores, by default with environments of its own; the stack closes both."""
    if envs is None:
        envs = slippery_ant_vector(_num_envs(effort), cores if cores > 1 else 0)
    stack.enter_context(closing(envs))
    return stack.enter_context(closing(make_ppo(envs, effort, cores, method)))


def tracking_of(agent: PPO) -> Callable[[], None]:
    """Return a function that measures the metrics of a run on the agent's latest rollout."""
    # This probe is a placeholder: each measurement passes the latest rollout.
    probe = agent.observations[:2]
    tracker = Tracker(agent.policy, probe, layers=agent.policy.hidden_layers)

    def track() -> None:
        tracker.boundary(0, agent.observations)

    return track


def _num_envs(effort: Effort) -> int:
    return effort.size(ANT.stream.num_envs, 2)


# ---- Stable-Baselines3's ----------------------------------------------------------------------------


def _training_times(env_id: str, effort: Effort) -> Times:
    """Return the seconds of a rollout and its update: ours on two cores and one, theirs in all settings."""
    config = ppo_config(effort)
    contenders: dict[str, Side] = {}
    with ExitStack() as stack, torch_threads(1):
        for label, cores in ((_OURS, CORES), (_ONE_CORE, 1)):
            contenders[label] = our_agent(effort, stack, cores).iterate
        for vector, many in _THEIR_VECTORS:
            num_envs = _num_envs(effort) if many else 1
            their_envs = make_vec_env(env_id, num_envs, seed=0, vec_env_cls=vector)
            model = stable_baselines3_ppo(stack.enter_context(closing(their_envs)), config, seed=0)
            for threads in (1, CORES):
                kind = vector.__name__.removesuffix("VecEnv")
                plural = "threads" if threads > 1 else "thread"
                label = f"{kind} {num_envs}, {threads} torch {plural}"
                contenders[label] = partial(learn, model, config.rollout_steps, threads)
        return effort.in_turns(contenders, rounds=5, collect_garbage=True)


def learn(model: StableBaselines3PPO, steps: int, threads: int) -> None:
    """Continue training for `steps` steps with `threads` threads of torch."""
    with torch_threads(threads):
        # A log interval beyond the end, so that nothing is logged.
        model.learn(steps, log_interval=steps, reset_num_timesteps=False)


# ---- the parts --------------------------------------------------------------------------------------


class Stopwatch:
    """Function that adds up the seconds spent in its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._seconds = 0.0

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the function."""
        started = time.perf_counter()
        try:
            return self._function(*arguments, **keywords)
        finally:
            self._seconds += time.perf_counter() - started

    def take(self) -> float:
        """Return the seconds added up since the last `take`."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class TimedAnt(SlipperyAntBulletEnv):
    """Ant of ours with one stopwatch on Bullet's part of a step and one on the environment as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self._physics = self._ant.step = Stopwatch(self._ant.step)  # type: ignore[method-assign]
        self._whole = (Stopwatch(self.step), Stopwatch(self.reset))
        self.step, self.reset = self._whole  # type: ignore[method-assign]

    def take_seconds(self) -> tuple[float, float]:
        """Return the seconds in Bullet's step, and in the environment as a whole, since the last call."""
        return self._physics.take(), sum(watch.take() for watch in self._whole)


class TimedLoop:
    """Training loop on two cores, timed part by part.

    Args:
        effort: Size of the measurement.
        stack: Stack that closes what is opened.
    """

    parts: list[dict[str, float]]
    """Seconds of each part, one entry per iteration."""

    track: Callable[[], None]
    """Function that measures the metrics of a run on the latest rollout."""

    def __init__(self, effort: Effort, stack: ExitStack) -> None:
        self._envs = VectorEnvironments([TimedAnt] * _num_envs(effort), CORES)
        self._step = self._envs.step = Stopwatch(self._envs.step)  # type: ignore[method-assign]
        self._agent = our_agent(effort, stack, CORES, ANT_SYRE, self._envs)
        self.track = tracking_of(self._agent)
        self.parts = []

    def iterate(self) -> None:
        """Do a rollout and its update, and record the seconds of each part."""
        started = time.perf_counter()
        self._agent.collect()
        collected = time.perf_counter()
        self._agent.update()
        updated = time.perf_counter()
        stepping = self._step.take()
        each = self._envs.call("take_seconds")
        # The workers run in parallel: one second in each of them is one second of the loop.
        physics, environments = (sum(seconds) / CORES for seconds in zip(*each, strict=True))
        self.parts.append(
            {
                "physics: Bullet's own step": physics,
                "Python of the environments": environments - physics,
                "communication and waiting": stepping - environments,
                "policy and storage": collected - started - stepping,
                "update of actor and critic": updated - collected,
            }
        )
