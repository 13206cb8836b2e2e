import importlib.util
from contextlib import ExitStack, closing

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from plasticity.agents import PPO, PPOConfig
from plasticity.scripts.bench import ppo as bench_ppo
from plasticity.scripts.bench.ppo import (
    Stopwatch,
    TimedAnt,
    TimedLoop,
    config_of,
    learn,
    ppo_parts,
    ppo_tracking,
    ppo_training,
    stable_baselines3_ppo,
)
from plasticity.scripts.bench.rows import Effort
from plasticity.tasks import SlipperyAntBulletEnv, slippery_ant_vector

QUICK = Effort(quick=True)
PUBLISHED = config_of(Effort())

needs_bullet = pytest.mark.skipif(
    importlib.util.find_spec("pybullet") is None, reason="needs PyBullet"
)


def pendulums(num_envs):
    return DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * num_envs)


@pytest.fixture
def in_one_process(monkeypatch):
    monkeypatch.setattr(bench_ppo, "CORES", 1)
    monkeypatch.setattr(bench_ppo, "_THEIR_VECTORS", ((DummyVecEnv, False), (DummyVecEnv, True)))


# ---- the same settings on both sides ----------------------------------------------------------------------


def test_the_settings_are_the_published_ones():
    expected = PPOConfig(
        hidden=(256, 256),
        activation="relu",
        rollout_steps=2048,
        epochs=10,
        minibatch_size=128,
        learning_rate=1e-4,
        betas=(0.9, 0.999),
    )
    assert expected == PUBLISHED
    assert PUBLISHED.num_minibatches == 16
    assert config_of(QUICK).rollout_steps < 100


def test_stable_baselines3_has_the_same_settings_and_shapes_of_weights():
    model = stable_baselines3_ppo(pendulums(8), PUBLISHED)
    assert (model.n_steps, model.n_envs, model.n_steps * model.n_envs) == (256, 8, 2048)
    assert (model.batch_size, model.n_epochs) == (128, 10)
    assert (model.gamma, model.gae_lambda) == (0.99, 0.95)
    assert (model.clip_range(1.0), model.clip_range_vf, model.target_kl) == (0.2, None, None)
    assert (model.ent_coef, model.vf_coef, model.max_grad_norm) == (0.0, 1.0, float("inf"))
    (group,) = model.policy.optimizer.param_groups
    assert type(model.policy.optimizer) is torch.optim.Adam
    assert (group["lr"], group["betas"], group["eps"]) == (1e-4, (0.9, 0.999), 1e-8)
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("Pendulum-v1")],
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    ours = PPO(envs, PUBLISHED, seed=0)
    theirs = sorted(tuple(each.shape) for each in model.policy.parameters())
    assert theirs == sorted(tuple(each.shape) for each in ours.policy.parameters())
    activations = {type(each) for each in model.policy.modules() if not list(each.children())}
    assert torch.nn.ReLU in activations
    assert torch.nn.Tanh not in activations


def test_a_turn_of_stable_baselines3_is_one_rollout_and_its_update(monkeypatch):
    config = config_of(QUICK)
    model = stable_baselines3_ppo(pendulums(2), config)
    threads, steps = [], []
    train, step = model.train, model.policy.optimizer.step
    before = torch.get_num_threads()

    def watched_train():
        threads.append(torch.get_num_threads())
        train()

    def watched_step(*arguments, **keywords):
        steps.append(model.num_timesteps)
        return step(*arguments, **keywords)

    monkeypatch.setattr(model, "train", watched_train)
    monkeypatch.setattr(model.policy.optimizer, "step", watched_step)
    for _ in range(2):
        learn(model, config.rollout_steps, before + 1)
    assert threads == [before + 1] * 2
    assert torch.get_num_threads() == before
    # 32 steps in minibatches of 16, once: two steps of the optimizer after each rollout
    assert steps == [32, 32, 64, 64]


# ---- the comparison ---------------------------------------------------------------------------------------


def test_only_their_fastest_setting_has_a_goal(monkeypatch):
    measured = []

    def fake(env_id, effort):
        measured.append(env_id)
        # "a" has the better median, "b" the better minimum.
        return {
            "ours, 2 cores": (1.0, 1.0, 1.0),
            "ours, 1 core": (2.0, 2.0, 2.0),
            "a": (3.0, 3.0, 3.0),
            "b": (2.0, 4.0, 4.0),
        }

    monkeypatch.setattr(bench_ppo, "_training_times", fake)
    monkeypatch.setattr(bench_ppo, "missing", lambda _: "")
    monkeypatch.setattr(bench_ppo, "goal_on_cores", lambda goal: (goal, ""))
    rows = ppo_training(Effort())
    assert measured == [bench_ppo.REFERENCE, bench_ppo.OURS]
    assert [row.value for row in rows] == [3.0, 4.0, 1.5] * 2
    assert [row.goal for row in rows] == [2.5, None, None, 1.5, None, None]
    assert rows[0].case.endswith("on AntBulletEnv-v0, a")
    assert rows[3].case.endswith("on our ant, a")
    # 2048 steps in 1 s, and in 3 s
    assert rows[0].note == "its fastest; 2048 / 683 steps/s"
    monkeypatch.setattr(bench_ppo, "goal_on_cores", lambda _: (None, "no goal: other cores"))
    row = ppo_training(Effort())[0]
    assert (row.goal, row.note) == (None, "no goal: other cores; 2048 / 683 steps/s")


def test_without_the_reference_its_row_says_so(monkeypatch):
    times = {"ours, 2 cores": (1.0,), "ours, 1 core": (1.0,), "a": (1.0,)}
    monkeypatch.setattr(bench_ppo, "_training_times", lambda *_: dict(times))
    monkeypatch.setattr(
        bench_ppo, "missing", lambda name: "" if name == "pybullet" else f"pip install {name}"
    )
    rows = ppo_training(QUICK)
    assert [row.value for row in rows] == [None, 1.0, 1.0]
    assert "pip install pybullet_envs_gymnasium" in rows[0].note


@pytest.mark.parametrize(
    ("measurement", "num_rows"), [(ppo_training, 2), (ppo_parts, 1), (ppo_tracking, 1)]
)
def test_without_bullet_nothing_is_measured(measurement, num_rows, monkeypatch):
    monkeypatch.setattr(bench_ppo, "missing", lambda name: f"pip install {name}")
    rows = measurement(QUICK)
    assert len(rows) == num_rows
    for row in rows:
        assert (row.measurement, row.value) == (measurement.__name__, None)
        assert "pip install pybullet" in row.note


@needs_bullet
def test_every_contender_takes_a_turn(in_one_process, monkeypatch):
    seen = {}

    def fake(contenders, rounds):
        for turn in contenders.values():
            turn()
        seen.update(contenders)
        return dict.fromkeys(contenders, (1.0,) * rounds)

    monkeypatch.setattr(bench_ppo, "in_turns", fake)
    times = bench_ppo._training_times(bench_ppo.OURS, QUICK)
    assert list(times) == list(seen)
    ours = [seen[label].__self__ for label in list(seen)[:2]]
    assert [agent.num_steps for agent in ours] == [32, 32]
    theirs = {label: turn.args for label, turn in seen.items() if "Dummy" in label}
    assert {model.n_envs for model, _, _ in theirs.values()} == {1, 2}
    assert {model.n_envs * model.n_steps for model, _, _ in theirs.values()} == {32}


# ---- syre and tracking ------------------------------------------------------------------------------


@needs_bullet
def test_what_syre_and_tracking_add(in_one_process, monkeypatch):
    def fake(contenders, rounds):
        for turn in contenders.values():
            turn()
        return {"without": (1.0, 2.0), "syre": (1.01, 2.02), "track": (0.1, 0.1)}

    monkeypatch.setattr(bench_ppo, "in_turns", fake)
    both, syre, tracking = ppo_tracking(QUICK)
    # Once in ten rollouts: (1.01 + 0.01) / 1 = 1.02 and (2.02 + 0.01) / 2 = 1.015
    assert both.value == pytest.approx(1.0175)
    assert (both.goal, both.unit, both.met) == (1.03, "time", True)
    assert (syre.value, syre.goal) == (pytest.approx(1.01), None)
    # 0.01 / 1 and 0.01 / 2
    assert (tracking.value, tracking.unit) == (pytest.approx(0.0075), "share")


# ---- the parts --------------------------------------------------------------------------------------


def test_a_stopwatch_adds_up_the_seconds_of_its_function(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bench_ppo.time, "perf_counter", lambda: now[0])

    def function(seconds, *, fail=False):
        now[0] += seconds
        if fail:
            raise OSError
        return seconds * 10

    watch = Stopwatch(function)
    assert watch(1.0) == 10.0
    now[0] += 100.0
    with pytest.raises(OSError):  # noqa: PT011
        watch(2.0, fail=True)
    assert watch.take() == 3.0
    assert watch.take() == 0.0


@needs_bullet
def test_a_timed_ant_moves_like_the_ant():
    with closing(TimedAnt()) as timed, closing(SlipperyAntBulletEnv()) as plain:
        actions = bench_ppo.random_actions(10)
        assert np.array_equal(timed.reset(seed=3)[0], plain.reset(seed=3)[0])
        for action in actions:
            ours, theirs = timed.step(action), plain.step(action)
            assert np.array_equal(ours[0], theirs[0])
            assert ours[1:] == theirs[1:]
        physics, whole = timed.take_seconds()
        assert 0 < physics < whole
        assert timed.take_seconds() == (0.0, 0.0)


@needs_bullet
def test_the_parts_of_the_loop_add_up_to_it():
    """Run with a worker process, as in the measurement."""
    with ExitStack() as stack, bench_ppo.torch_threads(1):
        loop = TimedLoop(QUICK, stack)
        for _ in range(2):
            started = bench_ppo.time.perf_counter()
            loop.iterate()
            elapsed = bench_ppo.time.perf_counter() - started
        loop.track()
    parts = loop.parts[1]
    assert all(seconds > 0 for name, seconds in parts.items() if "communication" not in name)
    # Apart from them, an iteration only records them.
    assert sum(parts.values()) <= elapsed
    assert len(loop.parts) == 2


@needs_bullet
def test_the_timed_loop_learns_like_the_untimed_one(in_one_process):
    with ExitStack() as stack:
        loop = TimedLoop(QUICK, stack)
        loop.iterate()
        envs = stack.enter_context(closing(slippery_ant_vector(2)))
        settings = loop._agent.state_dict()["actor_optimizer"]["param_groups"][0]
        assert settings["regularizer"] == "syre"
        plain = bench_ppo._our_agent(envs, QUICK, stack, 1, bench_ppo.SYRE)
        plain.iterate()
        for ours, theirs in zip(
            loop._agent.policy.parameters(), plain.policy.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)


@needs_bullet
def test_rows_of_the_parts(in_one_process, monkeypatch):
    class Fake:
        def __init__(self, *_):
            self.parts = []

        def iterate(self):
            # The first turn is the untimed one.
            self.parts.append({"physics": 3.0 if self.parts else 100.0, "update": 0.9})

        def track(self):
            pass

    def fake(contenders, rounds):
        for turn in [*contenders.values()] * 3:
            turn()
        return {"loop": (4.0, 4.0), "bullet": (3.0, 3.0), "track": (1.0, 1.0)}

    monkeypatch.setattr(bench_ppo, "TimedLoop", Fake)
    monkeypatch.setattr(bench_ppo, "in_turns", fake)
    *parts, limit = ppo_parts(QUICK)
    # 3 + 0.9 + 1 / 10 = 4 seconds
    shares = {row.case: row.value for row in parts}
    assert shares == {
        "physics": pytest.approx(0.75),
        "update": pytest.approx(0.225),
        "tracking, once in ten rollouts": pytest.approx(0.025),
    }
    assert {row.unit for row in parts} == {"share"}
    # 3 s for what the loop does in 4
    assert (limit.value, limit.unit, limit.goal) == (pytest.approx(0.75), "speed", None)
