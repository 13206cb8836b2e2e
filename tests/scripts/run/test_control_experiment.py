"""Runs of ants, alone and stacked: their rows, and the exact continuation of stopped ones."""

import json
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from plasticity.agents.ppo.base_agent import Iteration
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.episodes import Episode
from plasticity.agents.sb3 import DQNConfig, SACConfig, SB3PPOConfig
from plasticity.mitigations import ReDo, Syre, WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import ControlRunConfig, ControlTracking
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.control_environments import (
    joined,
    make_environments,
    part,
    with_tensors,
)
from plasticity.scripts.run.control_experiment import ControlExperiment
from plasticity.scripts.run.control_rows import ControlRows
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.pool import run_jobs
from plasticity.scripts.run.runner import Runner
from plasticity.scripts.run.saved_run import is_finished, progress_made
from plasticity.seeds import child_seed
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.control.classic import ClassicControlConfig
from plasticity.tasks.control.simulators import SimulationError
from plasticity.tasks.control.slippery.friction import task_friction
from plasticity.tasks.control.slippery.warp_physics import WarpPhysics

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

MUJOCO = with_values(TINY, {"benchmark": "slippery-ant-mujoco", "stream.engine": "mujoco"})

FORMS = {"alone": (TINY,), "stacked": RUNS}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def never():
    return False


def after(calls):
    """Return a should_stop that is True after a number of calls."""
    count = iter(range(calls))
    return lambda: next(count, None) is None


def train(out, configs, should_stop=never):
    with ExitStack() as opened:
        folders = [
            opened.enter_context(RunFolder(out / str(index), config))
            for index, config in enumerate(configs)
        ]
        return Runner(folders).execute(should_stop)


def rows(path, name="metrics"):
    return [json.loads(line) for line in (path / f"{name}.jsonl").read_text().splitlines()]


def contents(out, configs):
    return [
        (out / str(index) / f"{name}.jsonl").read_bytes()
        for index in range(len(configs))
        for name in ("metrics", "episodes")
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a function that returns the folder of runs without interruption; it trains them once."""
    known = {}

    def folder(configs):
        if configs not in known:
            pytest.importorskip(
                "pybullet", reason="needs pybullet: pip install 'plasticity[bullet]'"
            )
            pytest.importorskip("mujoco", reason="needs mujoco: pip install 'plasticity[mujoco]'")
            known[configs] = tmp_path_factory.mktemp("whole")
            assert train(known[configs], configs)
        return known[configs]

    return folder


@pytest.fixture(params=FORMS)
def configs(request):
    """Configurations of runs that are trained together."""
    return FORMS[request.param]


@pytest.fixture
def whole(finished, configs):
    """Folder of these runs without interruption."""
    return finished(configs)


@pytest.fixture
def alone(finished):
    """Folder of the single run without interruption."""
    return finished(FORMS["alone"]) / "0"


# ---- rows and episodes ---------------------------------------------------------------------------


def test_rows_come_at_the_cadence_and_at_each_change(alone):
    found = rows(alone)
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


def test_episodes_name_their_friction_and_add_up(alone):
    episodes, metrics = rows(alone, "episodes"), rows(alone)
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


def test_rows_of_each_run_come_at_its_own_steps(whole, configs):
    steps = [[row["step"] for row in rows(whole / str(run))] for run in range(len(configs))]
    assert all(set(range(128, 769, 128)) <= set(each) for each in steps)
    if len(configs) > 1:
        # another ant's episodes end at other steps, and so do its tasks
        assert steps[0] != steps[2]
    for run in range(len(configs)):
        path = whole / str(run)
        for timing, row in zip(rows(path, "timings"), rows(path), strict=True):
            assert timing.get("stacked", 1) == len(configs)
            assert timing["step"] == row["step"]
            assert timing["steps_per_second"] > 0


def test_what_is_measured_changes_nothing(tmp_path, whole, configs):
    assert train(tmp_path, [with_values(config, {"tracking.metrics": ()}) for config in configs])
    for run in range(len(configs)):
        bare, full = rows(tmp_path / str(run)), rows(whole / str(run))
        assert bare == [{key: row[key] for key in bare[0]} for row in full]


def test_the_engines_are_different_ants(finished, alone):
    in_mujoco = finished((MUJOCO,)) / "0"
    assert rows(alone)[0]["episode_return"] != rows(in_mujoco)[0]["episode_return"]
    steps = [[row["step"] for row in rows(path)] for path in (alone, in_mujoco)]
    assert set(range(128, 769, 128)) <= set(steps[0]) & set(steps[1])


def test_methods_begin_alike_and_diverge(finished):
    """Compare methods: weights, noise and friction depend on the seed, the decay on the method."""
    begun = []
    for config in RUNS[:2]:
        experiment = ControlExperiment([config], stacked=False)
        begun.append(experiment.state_dicts([0])[0]["agent"]["policy"])
        experiment.close()
    assert begun[0].keys() == begun[1].keys()
    assert all(torch.equal(begun[0][name], begun[1][name]) for name in begun[0])
    first = [rows(finished(RUNS) / str(run))[0]["effective_rank/actor.fc1"] for run in (0, 1)]
    assert first[0] != first[1]


def test_an_episode_has_the_friction_of_its_task():
    own = ControlRows(TINY)
    episodes = (Episode(8, 0, -1.0, 8, 2), Episode(9, 1, -1.0, 9, None))
    own.take(Iteration(16, {}, episodes, 2, False))
    (found, other) = own.take_episodes()
    assert found["friction"] == task_friction(child_seed(TINY.seed, "stream"), 2)
    assert list(found)[-2:] == ["task", "friction"]
    assert "friction" not in other


# ---- stacked against alone -----------------------------------------------------------------------


def played(experiment):
    """Return all rows and episodes of some runs, from `next_rows`."""
    count = len(experiment.configs)
    found, episodes = [[] for _ in range(count)], [[] for _ in range(count)]
    while not all(map(experiment.is_finished, range(count))):
        for index, row in experiment.next_rows(never).items():
            found[index].append(row)
            episodes[index] += experiment.take_episodes(index)
    experiment.close()
    return found, episodes


def played_alone(config):
    (found,), (episodes,) = played(ControlExperiment([config], stacked=False))
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
    found, episodes = played(ControlExperiment(RUNS, stacked=True))
    assert all("update_norm/total" not in own[0] for own in found)
    boundaries = 0
    for index, config in enumerate(RUNS):
        expected = played_alone(config)
        boundaries += sum(row["boundary"] for row in expected[0])
        assert_near(found[index], expected[0], rel=1e-6)
        assert_near(episodes[index], expected[1], rel=1e-6)
    assert boundaries


def test_begun_alone_continued_stacked_and_finished_alone(wide):
    expected = [played_alone(config)[0] for config in RUNS[:2]]
    found, states = [], []
    for config in RUNS[:2]:
        experiment = ControlExperiment([config], stacked=False)
        found.append([experiment.next_rows(never)[0]])  # at step 128
        states += experiment.state_dicts([0])
        experiment.close()
    group = ControlExperiment(RUNS[:2], stacked=True)
    for index, state in enumerate(states):
        group.load_state_dict(index, state)
    while group.progress < 256:
        for index, row in group.next_rows(never).items():
            found[index].append(row)
    states = group.state_dicts((0, 1))
    group.close()
    for index, config in enumerate(RUNS[:2]):
        experiment = ControlExperiment([config], stacked=False)
        experiment.load_state_dict(0, states[index])
        while not experiment.is_finished(0):
            found[index].append(experiment.next_rows(never)[0])
        experiment.close()
        assert_near(found[index], expected[index], rel=1e-6)


def test_one_that_diverges_ends_and_the_others_go_on(tmp_path, finished):
    exploding = with_values(TINY, {"method": (WeightDecay(strength=1e30),)})
    configs = (RUNS[0], exploding, RUNS[2])
    assert train(tmp_path, configs)
    last = rows(tmp_path / "1")[-1]
    assert last["diverged"] is True
    assert last["step"] < TINY.stream.num_steps
    assert not any("/" in name for name in last)
    for index in (0, 2):
        own, expected = (
            (out / str(index) / "metrics.jsonl").read_bytes() for out in (tmp_path, finished(RUNS))
        )
        assert own == expected


@pytest.mark.parametrize("form", FORMS)
def test_a_rehearsal_collects_a_rollout_and_measures(form):
    pytest.importorskip("pybullet", reason="needs pybullet: pip install 'plasticity[bullet]'")
    experiment = ControlExperiment(FORMS[form], stacked=form == "stacked")
    experiment.rehearse()
    assert experiment.progress == 64
    experiment.close()


# ---- stopping and continuing ---------------------------------------------------------------------


@pytest.mark.parametrize("calls", [0, 1, 5, 8])
def test_stopped_runs_continue_to_the_byte(tmp_path, whole, configs, calls):
    assert not train(tmp_path, configs, after(calls))
    assert train(tmp_path, configs)
    assert contents(tmp_path, configs) == contents(whole, configs)


@pytest.mark.parametrize("calls", [2, 7])
def test_a_stopped_run_of_mujoco_continues_to_the_byte(tmp_path, finished, calls):
    whole = finished((MUJOCO,))
    assert {row["task"] for row in rows(whole / "0")} >= {0, 1}
    assert rows(whole / "0", "episodes")
    assert not train(tmp_path, (MUJOCO,), after(calls))
    # In another process, with the environments in two more.
    job = Job(tmp_path / "0", with_values(MUJOCO, {"stream.cores": 2}))
    outcome = run_jobs([JobGroup((job,))], 1, lambda job, value: None)
    assert outcome.finished == [tmp_path / "0"], outcome
    assert contents(tmp_path, (MUJOCO,)) == contents(whole, (MUJOCO,))


def test_more_cores_and_other_processes_change_nothing(tmp_path, alone):
    """Run in a process of its own, with the environments in two more."""
    job = Job(tmp_path / "0", with_values(TINY, {"stream.cores": 2}))
    outcome = run_jobs([JobGroup((job,))], 1, lambda job, value: None)
    assert outcome.finished == [tmp_path / "0"], outcome
    assert contents(tmp_path, (TINY,)) == contents(alone.parent, (TINY,))


@pytest.mark.parametrize("limit", ["max_gradient_norm", "target_kl"])
def test_actor_and_critic_that_wait_for_each_other_also_take_more_cores(tmp_path, limit):
    """The benchmarks of classic control clip the joint gradient: their environments alone use the cores."""
    stream = ClassicControlConfig(
        environment="cartpole", changes="physics", num_steps=256, change_every=200, num_envs=2
    )
    cartpole = with_values(
        TINY, {"benchmark": "continual-cartpole", "stream": stream, f"agent.{limit}": 0.5}
    )
    runs = {}
    for cores in (1, 2):
        out = tmp_path / str(cores)
        assert train(out, (with_values(cartpole, {"stream.cores": cores}),))
        runs[cores] = contents(out, (cartpole,))
    assert runs[2] == runs[1]


def test_longer_runs_extend_finished_ones(tmp_path, whole, configs):
    short = [with_values(config, {"stream.num_steps": 300}) for config in configs]
    assert train(tmp_path, short)
    for run, (config, full) in enumerate(zip(short, configs, strict=True)):
        path = tmp_path / str(run)
        assert is_finished(path, config)
        assert progress_made(path, config) == config.length == 384  # the first row at or past 300
        assert not is_finished(path, full)
    assert train(tmp_path, configs)
    assert contents(tmp_path, configs) == contents(whole, configs)


def test_a_change_of_friction_ends_no_run(tmp_path, alone):
    """Kill the run just after a row of a change: the row that the run should end with is missing."""
    between = next(row["step"] for row in rows(alone) if row["step"] % 128)
    config = with_values(TINY, {"stream.num_steps": between})
    path = tmp_path / "0"
    assert not train(tmp_path, [config], after(between // 64))  # called before each rollout
    assert rows(path)[-1]["step"] == between
    assert not is_finished(path, config)
    assert train(tmp_path, [config])
    assert is_finished(path, config)
    assert (alone / "metrics.jsonl").read_bytes().startswith((path / "metrics.jsonl").read_bytes())


def test_killed_when_one_run_alone_had_a_row(tmp_path, finished, monkeypatch):
    """Continue where one checkpoint is ahead of the others, which catch up first."""
    whole = finished(RUNS)
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
            train(tmp_path, RUNS)
    saved = [
        torch.load(tmp_path / str(each) / "checkpoint.pt", weights_only=True)["experiment"]
        for each in range(len(RUNS))
    ]
    made = [ControlExperiment.progress_of(each) for each in saved]
    assert made[index] == step > min(made)
    assert train(tmp_path, RUNS)
    assert contents(tmp_path, RUNS) == contents(whole, RUNS)


# ---- algorithms of Stable-Baselines3 -------------------------------------------------------------

CARTPOLE = ClassicControlConfig(
    environment="cartpole", changes="physics", num_steps=192, change_every=60, num_envs=1
)
DQN = with_values(
    TINY,
    {
        "benchmark": "continual-cartpole",
        "method": (ReDo(every=4, tau=0.5), Syre(strength=0.01, sigma=0.3)),
        "stream": CARTPOLE,
        "agent": DQNConfig(
            hidden=(8, 8), batch_size=8, buffer_size=100, learning_starts=20, exploration_steps=50
        ),
        "tracking.measure_every": 64,
    },
)
SAC = with_values(
    DQN,
    {
        "benchmark": "continual-pendulum",
        "stream": with_values(
            CARTPOLE,
            {"environment": "pendulum", "max_episode_steps": 25},
        ),
        "agent": SACConfig(
            hidden=(8, 8), batch_size=8, buffer_size=100, learning_starts=20, train_freq=4
        ),
    },
)
SB3_PPO = with_values(
    DQN,
    {
        "stream.num_envs": 2,
        "agent": SB3PPOConfig(hidden=(8, 8), rollout_steps=64, batch_size=16, epochs=2),
    },
)
ALGORITHMS = {each.agent.algorithm: each for each in (SB3_PPO, DQN, SAC)}


@pytest.fixture(scope="module", params=ALGORITHMS)
def learned(request, tmp_path_factory):
    """Configuration of a run of an algorithm, and its folder, without interruption."""
    config = ALGORITHMS[request.param]
    out = tmp_path_factory.mktemp("learned")
    assert train(out, [config])
    return config, out


def test_rows_of_an_algorithm_are_those_of_an_agent(learned):
    config, out = learned
    found = rows(out / "0")
    steps = [row["step"] for row in found]
    assert steps == sorted({64, 128, 192, *steps})
    assert all(row["boundary"] for row in found if row["step"] % 64)
    boundaries = [row for row in found if row["boundary"]]
    assert [row["task"] for row in boundaries] == [*range(len(boundaries))]
    assert len(boundaries) >= 2
    episodes = rows(out / "0", "episodes")
    assert sum(row["episodes"] for row in found) == len(episodes)
    layers = {name.split("/")[1] for name in found[0] if name.startswith("effective_rank/")}
    for row in found:
        assert set(config.agent.statistics) <= set(row)
        assert {name.split("/")[1] for name in row if name.startswith("dead_fraction/")} == layers
        assert not row["diverged"]
    assert sum(v for row in found for k, v in row.items() if k.startswith("reset_units/")) > 0
    assert "update_norm/total" in found[1]


def test_a_stopped_algorithm_continues_to_the_byte(tmp_path, learned):
    config, out = learned
    short = with_values(config, {"stream.num_steps": 100})
    assert not train(tmp_path, [short], after(1))
    assert train(tmp_path, [short])  # and is extended
    assert train(tmp_path, [config])
    assert contents(tmp_path, [config]) == contents(out, [config])


def test_measuring_an_algorithm_changes_nothing(tmp_path, learned):
    config, out = learned
    assert train(tmp_path, [with_values(config, {"tracking.metrics": ()})])
    bare, full = rows(tmp_path / "0"), rows(out / "0")
    assert bare == [{key: row[key] for key in own} for own, row in zip(bare, full, strict=True)]


def test_an_algorithm_that_diverges_ends(tmp_path):
    exploding = with_values(DQN, {"method": (WeightDecay(strength=1e30, decoupled=True),)})
    assert train(tmp_path, [exploding])
    last = rows(tmp_path / "0")[-1]
    assert last["diverged"] is True
    assert last["step"] < 192
    assert not any("/" in name for name in last)
    assert is_finished(tmp_path / "0", exploding)


def test_an_algorithm_for_other_actions_is_refused_before_it_runs():
    other = with_values(SAC, {"benchmark": "continual-cartpole", "stream": CARTPOLE})
    with pytest.raises(
        ValueError, match="sb3:sac needs continuous actions, and those of continual-c"
    ):
        ControlExperiment.require_runnable([other])
    ControlExperiment.require_runnable([SAC, DQN])


def test_algorithms_have_a_process_each():
    for config in (SAC, TINY):
        assert not ControlExperiment.can_stack(config)
        assert ControlExperiment.can_be_alone(config)
    assert ControlExperiment.modules(SAC) == ["plasticity.agents.sb3.agent"]
    assert ControlExperiment.modules(TINY) == []


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
    assert train(tmp_path / "whole", configs)
    assert not train(tmp_path / "stopped", configs, after(1))
    assert train(tmp_path / "stopped", configs)
    for index in ("0", "1"):
        assert rows(tmp_path / "whole" / index) == rows(tmp_path / "stopped" / index)
        assert rows(tmp_path / "whole" / index)[0]["friction"] > 0


def test_a_simulator_without_space_is_an_error_of_the_run(warp, monkeypatch):
    experiment = ControlExperiment([WARP], stacked=True)

    def full(self):
        raise SimulationError("3 contacts did not fit.")

    monkeypatch.setattr(WarpPhysics, "check", full)
    with pytest.raises(
        RunError, match=r"^3 contacts did not fit\. The latest checkpoint is intact"
    ):
        experiment.next_rows(never)
    experiment.close()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Failed to allocate 64 bytes on device 'cuda:0'", torch.cuda.OutOfMemoryError),
        ("another", RuntimeError),
    ],
)
def test_a_simulator_that_does_not_fit_is_distinguished_from_other_errors(
    monkeypatch, message, kind, warp
):
    class Failing:
        def __init__(self, *arguments, **settings):
            raise RuntimeError(message)

    monkeypatch.setattr("plasticity.tasks.control.ant.warp.SlipperyAntWarp", Failing)
    with pytest.raises(RuntimeError, match=message) as caught:
        make_environments([WARP])
    assert type(caught.value) is kind


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("compile", [False, True])
def test_on_cuda_runs_stop_and_continue(tmp_path, warp, compile):
    configs = [
        with_values(each, {"device": "cuda", "agent.compile": compile})
        for each in (WARP, with_values(WARP, {"seed": 4}))
    ]
    assert not train(tmp_path, configs, after(1))
    assert train(tmp_path, configs)
    assert [row["step"] for row in rows(tmp_path / "1") if not row["boundary"]] == [128]


def test_an_environment_gets_the_arrays_that_it_saved():
    """Check the form of a checkpoint and back: tensors in between, as `torch.load` reads no arrays."""
    states = [
        {"tasks": torch.tensor([0, 1]), "environments": [{"x": np.arange(2.0)}, {"x": np.ones(1)}]},
        {"tasks": torch.tensor([2, 3]), "environments": [{"x": np.zeros(3)}, {"x": np.ones(2)}]},
    ]
    whole = joined([with_tensors(state) for state in states])
    assert whole["tasks"].tolist() == [0, 1, 2, 3]
    assert [type(each["x"]) for each in whole["environments"]] == [np.ndarray] * 4
    assert whole["environments"][0]["x"].tolist() == [0, 1]
    second = part(with_tensors(whole), run=1, num_envs=2)
    assert second["tasks"].tolist() == [2, 3]
    assert [each["x"].tolist() for each in second["environments"]] == [[0, 0, 0], [1, 1]]
