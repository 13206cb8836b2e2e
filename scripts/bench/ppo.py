"""Speed of the training loop on the ant: against Stable-Baselines3's, part by part, with and without syre."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import gymnasium
from stable_baselines3 import PPO as StableBaselines3PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from torch import nn

from plasticity.agents import PPO, PRESETS, PPOConfig
from plasticity.metrics.tracker import Tracker
from plasticity.mitigations import regularizer_settings
from plasticity.optim.settings import RegularizerSettings
from plasticity.scripts.bench.ant import OURS, REFERENCE, BulletAlone, play, random_actions
from plasticity.scripts.bench.rows import Effort, Row, time_row
from plasticity.scripts.bench.timing import Comparison, quartiles
from plasticity.scripts.bench.turns import (
    CORES,
    Times,
    fastest,
    goal_on_cores,
    in_turns,
    missing,
    rate_row,
    torch_threads,
    unmeasured_row,
)
from plasticity.scripts.config.benchmarks import BENCHMARKS, benchmark_config
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.tasks import SlipperyAntBulletEnv, VectorEnvironments, slippery_ant_vector

ROLLOUTS_PER_ROW = 10
"""Rollouts for each row of metrics: by default a run has one every 20 480 steps; a rollout has 2048."""

_BENCHMARK = benchmark_config("slippery-ant", ControlRunConfig)
SYRE = regularizer_settings([BENCHMARKS["slippery-ant"].mitigation("syre")])
"""Settings of the benchmark, for actor and critic."""

_SEED = 0
_OURS, _ONE_CORE = f"ours, {CORES} cores", "ours, 1 core"
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
    for env_id, ant, package, bound in (
        (REFERENCE, "AntBulletEnv-v0", "pybullet_envs_gymnasium", 2.5),
        (OURS, "our ant", "pybullet", 1.5),
    ):
        name, against = "ppo_training", f"{_OURS} vs SB3 on {ant}"
        goal, no_goal = goal_on_cores(bound)
        if unmeasured := missing("pybullet") or missing(package):
            rows.append(unmeasured_row(name, against, goal, unmeasured))
            continue
        times = _training_times(env_id, effort)
        ours, one_core = times.pop(_OURS), times.pop(_ONE_CORE)
        best = fastest(times)
        row = partial(rate_row, name, steps=config_of(effort).rollout_steps)
        rows.append(
            row(f"{against}, {best}", ours, times[best], goal=goal, note=no_goal or "its fastest")
        )
        rows += [row(f"… {label}", ours, times[label]) for label in times if label != best]
        rows.append(row(f"{_ONE_CORE} vs SB3 on {ant}, {best}", one_core, times[best]))
    return rows


def ppo_parts(effort: Effort) -> list[Row]:
    """Measure each part's share of our loop's time on two cores, and the loop against Bullet's own speed."""
    name, limit = "ppo_parts", f"loop vs Bullet's own step on {CORES} cores: the limit"
    if unmeasured := missing("pybullet"):
        return [unmeasured_row(name, limit, None, unmeasured)]
    steps = config_of(effort).rollout_steps
    actions = random_actions(steps // CORES)
    with ExitStack() as stack, torch_threads(1):
        loop = TimedLoop(effort, stack)
        with closing(gymnasium.make(OURS)) as ant:
            ends = play(ant, actions)
        bullet = stack.enter_context(closing(BulletAlone(actions, ends)))
        contenders = {"loop": loop.iterate, "bullet": bullet.play, "track": loop.track}
        times = in_turns(contenders, effort.rounds or effort.size(9, 2))
    tracking = [seconds / ROLLOUTS_PER_ROW for seconds in times["track"]]
    rounds = [
        {**parts, "tracking, once in ten rollouts": seconds}
        for parts, seconds in zip(loop.parts[1:], tracking, strict=True)
    ]
    totals = [sum(parts.values()) for parts in rounds]
    rows = [_share_row(name, part, [parts[part] for parts in rounds], totals) for part in rounds[0]]
    return [*rows, rate_row(name, limit, totals, times["bullet"], steps)]


def ppo_tracking(effort: Effort) -> list[Row]:
    """Measure the combined cost of syre and of a run's metrics, against the loop without either."""
    name = "ppo_tracking"
    both, syre = "loop with syre and tracking vs neither", "loop with syre vs without"
    if unmeasured := missing("pybullet"):
        return [unmeasured_row(name, both, None, unmeasured)]
    with ExitStack() as stack, torch_threads(1):
        without = _our_agent(_our_envs(effort, stack, CORES), effort, stack, CORES)
        regularized = _our_agent(_our_envs(effort, stack, CORES), effort, stack, CORES, SYRE)
        times = in_turns(
            {
                "without": without.iterate,
                "syre": regularized.iterate,
                "track": partial(_track, _tracker(regularized), regularized),
            },
            effort.rounds or effort.size(15, 2),
        )
    tracking = [seconds / ROLLOUTS_PER_ROW for seconds in times["track"]]
    combined = tuple(a + b for a, b in zip(times["syre"], tracking, strict=True))
    return [
        time_row(name, both, Comparison(combined, times["without"]), 1.03),
        time_row(name, syre, Comparison(times["syre"], times["without"]), None),
        _share_row(name, "tracking, once in ten rollouts", tracking, times["without"]),
    ]


def config_of(effort: Effort) -> PPOConfig:
    """Return the published settings, or small ones for checking that everything runs."""
    if effort.quick:
        return PPOConfig(hidden=(8, 8), rollout_steps=32, epochs=1, minibatch_size=16)
    return PRESETS["standard"]


def _num_envs(effort: Effort) -> int:
    return effort.size(_BENCHMARK.stream.num_envs, 2)


# ---- our loop ---------------------------------------------------------------------------------------


def _our_envs(effort: Effort, stack: ExitStack, cores: int) -> VectorEnvironments:
    envs = slippery_ant_vector(_num_envs(effort), cores if cores > 1 else 0)
    return stack.enter_context(closing(envs))


def _our_agent(
    envs: VectorEnvironments,
    effort: Effort,
    stack: ExitStack,
    cores: int,
    settings: RegularizerSettings | None = None,
) -> PPO:
    agent = PPO(envs, config_of(effort), settings, settings, seed=_SEED, update_threads=cores)
    return stack.enter_context(closing(agent))


def _tracker(agent: PPO) -> Tracker:
    # This probe is a placeholder: each measurement passes the latest rollout.
    return Tracker(agent.policy, agent.observations[:2], layers=agent.policy.hidden_layers)


def _track(tracker: Tracker, agent: PPO) -> None:
    tracker.boundary(0, agent.observations)


# ---- Stable-Baselines3's ----------------------------------------------------------------------------


def stable_baselines3_ppo(envs: VecEnv, config: PPOConfig) -> StableBaselines3PPO:
    """Return Stable-Baselines3's PPO with the same settings as ours."""
    return StableBaselines3PPO(
        "MlpPolicy",
        envs,
        learning_rate=config.learning_rate,
        n_steps=config.rollout_steps // envs.num_envs,
        batch_size=config.minibatch_size,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.entropy_coefficient,
        vf_coef=config.value_coefficient,
        max_grad_norm=float("inf"),  # the norm is computed in any case
        policy_kwargs={
            "net_arch": list(config.hidden),
            "activation_fn": nn.ReLU,
            "optimizer_kwargs": {"betas": config.betas, "eps": config.epsilon},
        },
        seed=_SEED,
        device="cpu",
    )


def _training_times(env_id: str, effort: Effort) -> Times:
    """Return the seconds of a rollout and its update: ours on two cores and one, theirs in all settings."""
    config = config_of(effort)
    contenders: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack, torch_threads(1):
        for label, cores in ((_OURS, CORES), (_ONE_CORE, 1)):
            envs = _our_envs(effort, stack, cores)
            contenders[label] = _our_agent(envs, effort, stack, cores).iterate
        for vector, many in _THEIR_VECTORS:
            num_envs = _num_envs(effort) if many else 1
            their_envs = make_vec_env(env_id, num_envs, seed=_SEED, vec_env_cls=vector)
            model = stable_baselines3_ppo(stack.enter_context(closing(their_envs)), config)
            for threads in (1, CORES):
                kind = vector.__name__.removesuffix("VecEnv")
                label = (
                    f"{kind} {num_envs}, {threads} torch {'threads' if threads > 1 else 'thread'}"
                )
                contenders[label] = partial(learn, model, config.rollout_steps, threads)
        return in_turns(contenders, effort.rounds or effort.size(5, 1))


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

    def __init__(self, effort: Effort, stack: ExitStack) -> None:
        self._envs = stack.enter_context(
            closing(VectorEnvironments([TimedAnt] * _num_envs(effort), CORES))
        )
        self._step = self._envs.step = Stopwatch(self._envs.step)  # type: ignore[method-assign]
        self._agent = _our_agent(self._envs, effort, stack, CORES, SYRE)
        self._tracker = _tracker(self._agent)
        self.parts = []

    def iterate(self) -> None:
        """Do a rollout and its update, and record the seconds of each part."""
        started = time.perf_counter()
        self._agent.collect()
        collected = time.perf_counter()
        self._agent.update(self._agent.config.learning_rate)
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

    def track(self) -> None:
        """Measure the metrics of a run on the latest rollout."""
        _track(self._tracker, self._agent)


def _share_row(measurement: str, case: str, part: Sequence[float], whole: Sequence[float]) -> Row:
    share = quartiles([a / b for a, b in zip(part, whole, strict=True)])
    return Row(
        measurement,
        case,
        share.median,
        "share",
        lower=share.lower,
        upper=share.upper,
        ours=statistics.median(part),
        theirs=statistics.median(whole),
    )
