"""Slippery-Ant run: its rows, and the exact continuation of a stopped one."""

import json

import pytest
import torch

from plasticity.agents.ppo.config import PPOConfig
from plasticity.mitigations import Syre
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import ControlRunConfig, ControlTracking
from plasticity.scripts.run.ant_experiment import AntExperiment
from plasticity.scripts.run.folder import RunFolder, execute, is_finished, progress_made
from plasticity.scripts.run.pool import Job, run_jobs
from plasticity.seeds import child_seed
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.control.friction import task_friction

# Two ants; the friction of each changes at the end of its first episode after 100 steps of its own.
TINY = ControlRunConfig(
    benchmark="slippery-ant",
    method=(Syre(strength=0.01, sigma=0.3),),
    seed=3,
    stream=SlipperyAntConfig(engine="bullet", num_steps=768, change_every=200, num_envs=2),
    agent=PPOConfig(rollout_steps=64, epochs=2, minibatch_size=16, hidden=(16, 16)),
    tracking=ControlTracking(
        metrics=("effective_rank", "dead_fraction", "weight_norm", "update_norm"),
        measure_every=128,
    ),
)

MUJOCO = with_values(TINY, {"benchmark": "slippery-ant-mujoco", "stream.engine": "mujoco"})


def never():
    return False


def after(calls):
    """Return a should_stop that is True from the given call on, counted from 1."""
    count = 0

    def should_stop():
        nonlocal count
        count += 1
        return count >= calls

    return should_stop


def run(path, config=TINY, should_stop=never):
    with RunFolder(path, config.to_json()) as folder:
        experiment = AntExperiment(config)
        try:
            return execute(folder, experiment, should_stop)
        finally:
            experiment.close()


def rows(path, name="metrics"):
    return [json.loads(line) for line in (path / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Run without interruption."""
    pytest.importorskip(
        "pybullet", reason="the Bullet ant needs pybullet: pip install 'plasticity[bullet]'"
    )
    path = tmp_path_factory.mktemp("whole")
    assert run(path)
    return path


@pytest.fixture(scope="module")
def whole_in_mujoco(tmp_path_factory):
    """Run of MuJoCo's ants without interruption."""
    pytest.importorskip(
        "mujoco", reason="the MuJoCo ant needs mujoco: pip install 'plasticity[mujoco]'"
    )
    path = tmp_path_factory.mktemp("mujoco")
    assert run(path, MUJOCO)
    return path


def test_rows_come_at_the_cadence_and_at_each_change(whole):
    found = rows(whole)
    steps = [row["step"] for row in found]
    assert steps == sorted(set(steps))
    assert set(range(128, 769, 128)) <= set(steps)
    off_cadence = [row for row in found if row["step"] % 128]
    assert all(row["boundary"] for row in off_cadence)
    boundaries = [row["task"] for row in found if row["boundary"]]
    assert len(boundaries) >= 2
    assert boundaries == sorted(set(boundaries))
    assert [row["task"] for row in found] == sorted(row["task"] for row in found)
    for row in found:
        stream = child_seed(TINY.seed, "stream")
        assert row["friction"] == pytest.approx(task_friction(stream, row["task"]))
        for layer in ("actor.fc1", "actor.fc2", "critic.fc1", "critic.fc2"):
            assert 0 <= row[f"effective_rank/{layer}"] <= 16
        assert not row["diverged"]


def test_episodes_name_their_friction_and_add_up(whole):
    episodes, metrics = rows(whole, "episodes"), rows(whole)
    assert episodes
    assert {each["environment"] for each in episodes} <= {0, 1}
    begun = 0
    for row in metrics:
        ended = [each for each in episodes if begun < each["step"] <= row["step"]]
        begun = row["step"]
        assert row["episodes"] == len(ended)
        if ended:
            mean = sum(each["episode_return"] for each in ended) / len(ended)
            assert row["episode_return"] == pytest.approx(mean)
    assert sum(row["episodes"] for row in metrics) == len(episodes)
    stream = child_seed(TINY.seed, "stream")
    for each in episodes:
        assert each["friction"] == pytest.approx(task_friction(stream, each["task"]))
    for environment in (0, 1):  # every step of an ended episode was played once
        own = [each for each in episodes if each["environment"] == environment]
        assert sum(each["episode_length"] for each in own) <= 768 / 2


@pytest.mark.parametrize("calls", [2, 4, 7, 9])
def test_a_stopped_run_continues_to_the_byte(tmp_path, whole, calls):
    assert not run(tmp_path, should_stop=after(calls))
    assert run(tmp_path)
    for name in ("metrics.jsonl", "episodes.jsonl"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("calls", [3, 8])
def test_a_stopped_run_of_mujoco_continues_to_the_byte(tmp_path, whole_in_mujoco, calls):
    assert {row["task"] for row in rows(whole_in_mujoco)} >= {0, 1}
    assert rows(whole_in_mujoco, "episodes")
    assert not run(tmp_path, MUJOCO, should_stop=after(calls))
    # In another process, with the environments in two more.
    outcome = run_jobs(
        [Job(tmp_path, with_values(MUJOCO, {"stream.cores": 2}))], 1, lambda job, value: None
    )
    assert outcome.finished == [tmp_path], outcome
    for name in ("metrics.jsonl", "episodes.jsonl"):
        assert (tmp_path / name).read_bytes() == (whole_in_mujoco / name).read_bytes()


def test_the_engines_are_different_ants(whole, whole_in_mujoco):
    assert rows(whole)[0]["episode_return"] != rows(whole_in_mujoco)[0]["episode_return"]
    steps = [[row["step"] for row in rows(path)] for path in (whole, whole_in_mujoco)]
    assert set(range(128, 769, 128)) <= set(steps[0]) & set(steps[1])


def test_a_longer_run_extends_a_finished_one(tmp_path, whole):
    short = with_values(TINY, {"stream.num_steps": 300})
    assert run(tmp_path, short)
    assert is_finished(tmp_path, 300)
    assert progress_made(tmp_path) == short.length == 384  # the first row at or past 300
    assert not is_finished(tmp_path, 768)
    assert run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_change_of_friction_ends_no_run(tmp_path, whole):
    """Kill the run just after a row of a change: the row that the run should end with is missing."""
    steps = [row["step"] for row in rows(whole)]
    between = next(step for step in steps if step % 128)
    config = with_values(TINY, {"stream.num_steps": between})
    assert not run(
        tmp_path, config, should_stop=after(between // 64 + 1)
    )  # called before each rollout
    assert rows(tmp_path)[-1]["step"] == between
    assert not is_finished(tmp_path, config.length)
    assert progress_made(tmp_path) == between // 128 * 128
    assert run(tmp_path, config)
    assert is_finished(tmp_path, config.length)
    assert (
        (whole / "metrics.jsonl").read_bytes().startswith((tmp_path / "metrics.jsonl").read_bytes())
    )


def test_what_is_measured_changes_nothing(tmp_path, whole):
    assert run(tmp_path, with_values(TINY, {"tracking.metrics": ()}))
    bare, full = rows(tmp_path), rows(whole)
    assert bare == [{key: row[key] for key in bare[0]} for row in full]


def test_more_cores_and_other_processes_change_nothing(tmp_path, whole):
    """Run in a process of its own, with the environments in two more."""
    config = with_values(TINY, {"stream.cores": 2})
    outcome = run_jobs([Job(tmp_path / "run", config)], 1, lambda job, value: None)
    assert outcome.finished == [tmp_path / "run"], outcome
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (
        whole / "metrics.jsonl"
    ).read_bytes()


def test_methods_begin_alike_and_diverge(tmp_path, whole):
    """Compare methods: weights, noise and friction depend on the seed, the decay on the method."""
    plain = with_values(TINY, {"method": ()})
    begun = []
    for config in (plain, TINY):
        experiment = AntExperiment(config)
        begun.append(experiment.state_dict()["agent"]["policy"])
        experiment.close()
    assert begun[0].keys() == begun[1].keys()
    assert all(torch.equal(begun[0][name], begun[1][name]) for name in begun[0])
    assert run(tmp_path, plain)
    assert (
        rows(whole)[0]["effective_rank/actor.fc1"] != rows(tmp_path)[0]["effective_rank/actor.fc1"]
    )


def test_timings_count_steps(whole):
    timings = rows(whole, "timings")
    assert len(timings) == len(rows(whole))
    for each in timings:
        assert each["steps_per_second"] > 0
