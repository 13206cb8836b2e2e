"""Stacked Slippery-Ant runs against the same runs one by one: Bullet's ants, on the host."""

import json
from contextlib import ExitStack
from functools import partial

import pytest
import torch

pytest.importorskip(
    "pybullet", reason="the Bullet ant needs pybullet: pip install 'plasticity[bullet]'"
)

from plasticity.agents.ppo.agent import Episode, Iteration
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.device_environments import HostEnvironments
from plasticity.agents.ppo.rollout import environment_seeds
from plasticity.mitigations import Syre, WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import ControlRunConfig, ControlTracking
from plasticity.scripts.run import stacked_ants
from plasticity.scripts.run.ant_experiment import AntExperiment
from plasticity.scripts.run.ant_rows import AntRows
from plasticity.scripts.run.folder import RunError, RunFolder, is_finished
from plasticity.scripts.run.stacked import StackedRuns
from plasticity.scripts.run.stacked_ants import StackedAnts, warp_ants
from plasticity.seeds import child_seed
from plasticity.tasks import SlipperyAntBulletEnv, task_friction
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.vector.environments import VectorEnvironments

# Two ants for each run, whose friction changes at the first end of an episode after 100 steps.
TINY = ControlRunConfig(
    benchmark="slippery-ant",
    method=(Syre(strength=0.01, sigma=0.3),),
    seed=3,
    stream=SlipperyAntConfig(engine="bullet", num_steps=768, change_every=200, num_envs=2),
    agent=PPOConfig(rollout_steps=64, epochs=2, minibatch_size=16, hidden=(16, 16)),
    tracking=ControlTracking(
        metrics=("effective_rank", "dead_fraction", "weight_norm", "gradient_norm", "update_norm"),
        measure_every=128,
    ),
)
RUNS = (
    TINY,
    with_values(TINY, {"method": ()}),
    with_values(
        TINY,
        {
            "seed": 4,
            "method": (WeightDecay(strength=0.01),),
            "critic_method": (WeightDecay(strength=0.1),),
        },
    ),
)


def bullet_ants(configs):
    makers, seeds = [], []
    for config in configs:
        make = partial(
            SlipperyAntBulletEnv,
            task_seed=child_seed(config.seed, "stream"),
            change_every=config.stream.change_every // config.stream.num_envs,
        )
        makers += [make] * config.stream.num_envs
        seeds += environment_seeds(config.seed, config.stream.num_envs)
    return HostEnvironments(VectorEnvironments(makers), seeds)


class BulletAnts(StackedAnts):
    def __init__(self, configs):
        super().__init__(configs, bullet_ants)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def never():
    return False


def after(calls):
    count = iter(range(calls))
    return lambda: next(count, None) is None


def train(out, configs=RUNS, should_stop=never, kind=BulletAnts):
    with ExitStack() as opened:
        folders = [
            opened.enter_context(RunFolder(out / str(index), config.to_json()))
            for index, config in enumerate(configs)
        ]
        return StackedRuns(folders, configs, kind).execute(should_stop)


def rows(path, name="metrics"):
    return [json.loads(line) for line in (path / f"{name}.jsonl").read_text().splitlines()]


def contents(out):
    return [
        (out / str(index) / f"{name}.jsonl").read_bytes()
        for index in range(len(RUNS))
        for name in ("metrics", "episodes")
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs without interruption."""
    path = tmp_path_factory.mktemp("whole")
    assert train(path)
    return path


def played(experiment):
    """Return all rows and episodes of some runs, from `next_rows`."""
    count = len(experiment._configs)
    found, episodes = [[] for _ in range(count)], [[] for _ in range(count)]
    while not all(map(experiment.is_finished, range(count))):
        for index, row in experiment.next_rows(never).items():
            found[index].append(row)
            episodes[index] += experiment.take_episodes(index)
    experiment.close()
    return found, episodes


def played_alone(config):
    experiment = AntExperiment(config)
    found, episodes = [], []
    while not experiment.finished:
        found.append(experiment.next_row(never))
        episodes += experiment.take_episodes()
    experiment.close()
    return found, episodes


def assert_near(found, expected, rel):
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert list(row) == list(other)
        for name, value in other.items():
            if value is None:
                assert row[name] is None
            else:
                assert row[name] == pytest.approx(value, rel=rel, abs=1e-6), name


@pytest.fixture
def wide():
    """Rounding differences grow where an ant touches the ground, and those of float32 are large."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_rows_and_episodes_are_those_of_each_run_alone(wide):
    found, episodes = played(BulletAnts(RUNS))
    assert all("update_norm/total" not in own[0] for own in found)
    boundaries = 0
    for index, config in enumerate(RUNS):
        expected = played_alone(config)
        boundaries += sum(row["boundary"] for row in expected[0])
        assert_near(found[index], expected[0], rel=1e-6)
        assert_near(episodes[index], expected[1], rel=1e-6)
    assert boundaries


def test_rows_of_each_run_come_at_its_own_steps(whole):
    steps = [[row["step"] for row in rows(whole / str(index))] for index in range(len(RUNS))]
    assert all(set(range(128, 769, 128)) <= set(each) for each in steps)
    assert steps[0] != steps[2]  # another ant's episodes end at other steps, and so do its tasks
    for index in range(len(RUNS)):
        for timing, row in zip(
            rows(whole / str(index), "timings"), rows(whole / str(index)), strict=True
        ):
            assert timing["stacked"] == len(RUNS)
            assert timing["step"] == row["step"]
            assert timing["steps_per_second"] > 0


@pytest.mark.parametrize("calls", [0, 5])
def test_stopped_runs_continue_to_the_byte(tmp_path, whole, calls):
    assert not train(tmp_path, should_stop=after(calls))
    assert train(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_killed_when_one_run_alone_had_a_row(tmp_path, whole, monkeypatch):
    """Continue where one checkpoint is ahead of the others, which catch up first."""
    steps = [[row["step"] for row in rows(whole / str(index))] for index in range(len(RUNS))]
    # a row that a single run has, between two regular ones
    index, step = next(
        (index, step)
        for index, own in enumerate(steps)
        for step in own
        if sum(step in each for each in steps) < len(RUNS)
    )
    append = RunFolder.append

    def killed(folder, row, *rest):
        if row["step"] > step:
            raise ZeroDivisionError  # the next row is never written
        append(folder, row, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", killed)
        with pytest.raises(ZeroDivisionError):
            train(tmp_path)
    saved = [
        torch.load(tmp_path / str(each) / "checkpoint.pt", weights_only=True)["experiment"]
        for each in range(len(RUNS))
    ]
    made = [StackedAnts.progress_of(each) for each in saved]
    assert made[index] == step > min(made)
    assert train(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_a_longer_run_extends_a_finished_one(tmp_path, whole):
    short = [with_values(config, {"stream.num_steps": 200}) for config in RUNS]
    assert train(tmp_path, short)
    assert all(is_finished(tmp_path / str(index), 256) for index in range(len(RUNS)))
    assert train(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_begun_alone_continued_stacked_and_finished_alone(wide):
    expected = [played_alone(config)[0] for config in RUNS[:2]]
    found, states = [], []
    for config in RUNS[:2]:
        experiment = AntExperiment(config)
        found.append([experiment.next_row(never)])  # at step 128
        states.append(experiment.state_dict())
        experiment.close()
    group = BulletAnts(RUNS[:2])
    for index, state in enumerate(states):
        group.load_state_dict(index, state)
    while group.progress < 256:
        for index, row in group.next_rows(never).items():
            found[index].append(row)
    states = group.state_dicts((0, 1))
    group.close()
    for index, config in enumerate(RUNS[:2]):
        experiment = AntExperiment(config)
        experiment.load_state_dict(states[index])
        while not experiment.finished:
            found[index].append(experiment.next_row(never))
        experiment.close()
        assert_near(found[index], expected[index], rel=1e-6)


def test_what_is_measured_changes_nothing(tmp_path, whole):
    assert train(tmp_path, [with_values(config, {"tracking.metrics": ()}) for config in RUNS])
    for index in range(len(RUNS)):
        bare, full = rows(tmp_path / str(index)), rows(whole / str(index))
        assert bare == [{key: row[key] for key in bare[0]} for row in full]


def test_one_that_diverges_ends_and_the_others_go_on(tmp_path, whole):
    exploding = with_values(TINY, {"method": (WeightDecay(strength=1e30),)})
    configs = (RUNS[0], exploding, RUNS[2])
    assert train(tmp_path, configs)
    last = rows(tmp_path / "1")[-1]
    assert last["diverged"] is True
    assert last["step"] < TINY.stream.num_steps
    assert not any("/" in name for name in last)
    for index in (0, 2):
        own, expected = (
            (out / str(index) / "metrics.jsonl").read_bytes() for out in (tmp_path, whole)
        )
        assert own == expected


def test_a_rehearsal_collects_a_rollout_and_measures():
    experiment = BulletAnts(RUNS[:2])
    experiment.rehearse()
    assert experiment.progress == 64
    experiment.close()


# ---- the ants of a GPU, on a CPU ----------------------------------------------------------------

WARP = with_values(
    TINY,
    {"benchmark": "slippery-ant-warp", "stream.engine": "warp", "stream.num_steps": 128},
)


@pytest.fixture
def warp():
    pytest.importorskip("mujoco_warp", reason="needs mujoco-warp: pip install 'plasticity[gpu]'")


def test_the_ants_of_a_gpu_continue_to_the_byte(tmp_path, warp):
    configs = [WARP, with_values(WARP, {"seed": 4})]
    assert train(tmp_path / "whole", configs, kind=StackedAnts)
    assert not train(tmp_path / "stopped", configs, after(1), kind=StackedAnts)
    assert train(tmp_path / "stopped", configs, kind=StackedAnts)
    for index in ("0", "1"):
        assert rows(tmp_path / "whole" / index) == rows(tmp_path / "stopped" / index)
        assert rows(tmp_path / "whole" / index)[0]["friction"] > 0


def test_an_episode_has_the_friction_of_its_task_to_the_digit():
    exact = task_friction(child_seed(WARP.seed, "stream"), 2)
    in_float32 = torch.tensor(exact).item()
    assert in_float32 != exact
    own = AntRows(WARP)
    episodes = (
        Episode(8, 0, -1.0, 8, 2, in_float32),
        Episode(9, 1, -1.0, 9, None, None),
    )
    own.take(Iteration({}, episodes, 2, in_float32, False), 16)
    assert [each["friction"] for each in own.take_episodes()] == [exact, None]


def test_a_simulator_without_space_is_an_error_of_the_run(warp, monkeypatch):
    envs = warp_ants([WARP])
    assert envs.num_envs == 2
    physics = type(envs._physics)

    def full(self):
        raise RuntimeError("3 contacts did not fit.")

    monkeypatch.setattr(physics, "check", full)
    with pytest.raises(
        RunError, match=r"^3 contacts did not fit\. The latest checkpoint is intact"
    ):
        envs.check()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Failed to allocate 64 bytes on device 'cuda:0'", torch.cuda.OutOfMemoryError),
        ("another", RuntimeError),
    ],
)
def test_a_simulator_that_does_not_fit_is_distinguished_from_other_errors(
    monkeypatch, message, kind
):
    def begin(*_arguments, **_settings):
        raise RuntimeError(message)

    monkeypatch.setattr(stacked_ants, "_WarpAnts", begin)
    with pytest.raises(RuntimeError, match=message) as caught:
        warp_ants([WARP])
    assert type(caught.value) is kind


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("compile", [False, True])
def test_on_cuda_runs_stop_and_continue(tmp_path, warp, compile):
    configs = [
        with_values(each, {"device": "cuda", "agent.compile": compile})
        for each in (WARP, with_values(WARP, {"seed": 4}))
    ]
    assert not train(tmp_path, configs, after(1), kind=StackedAnts)
    assert train(tmp_path, configs, kind=StackedAnts)
    assert [row["step"] for row in rows(tmp_path / "1") if not row["boundary"]] == [128]
