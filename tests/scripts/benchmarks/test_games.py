"""Games in turn: the published numbers, the lengths of the presets, and a run that continues exactly."""

import copy
import importlib.util

import pytest
import torch

from plasticity.mitigations.redo import ReDo
from plasticity.mitigations.syre import Syre
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.control_experiment import ControlExperiment

MINATAR, ALE = BENCHMARKS["minatar-sequence"], BENCHMARKS["ale-sequence"]
PROCGEN = BENCHMARKS["procgen-levels"]


def test_the_order_and_the_length_of_c_chain():
    stream = MINATAR.with_presets({"preset": "c-chain"}).config.stream
    assert stream.games == ("space_invaders", "asterix", "seaquest")
    assert (stream.num_steps, stream.change_every) == (3 * 2_000_000, 2_000_000)


@pytest.mark.parametrize("benchmark", [MINATAR, ALE])
@pytest.mark.parametrize("preset", ["small", "quick"])
def test_every_game_is_played_once(benchmark, preset):
    config = benchmark.with_presets({"preset": preset}).config
    assert config.stream.num_steps == len(config.stream.games) * config.stream.change_every
    assert config.length == config.stream.num_steps


def test_the_order_and_the_length_of_cora():
    stream = ALE.with_presets({"preset": "cora"}).config.stream
    assert stream.games == (
        "space_invaders",
        "krull",
        "beam_rider",
        "hero",
        "star_gunner",
        "ms_pacman",
    )
    # 50 million frames of each game, in five cycles
    assert stream.change_every * stream.frame_skip == 50_000_000
    assert stream.num_steps == 5 * 6 * stream.change_every
    assert stream.max_episode_steps == 10_000


def test_ppo_in_atari():
    agent = ALE.config.agent
    assert (agent.image_network, agent.hidden) == ("nature", (512,))
    assert (agent.rollout_steps, agent.num_minibatches, agent.epochs) == (8 * 128, 4, 4)
    assert (agent.learning_rate, agent.epsilon, agent.clip_range) == (2.5e-4, 1e-5, 0.1)
    # the loss of values is 0.5 * 0.5 * mean((V - R)^2) in `ppo2` of OpenAI's baselines and in CleanRL
    assert (agent.entropy_coefficient, agent.value_coefficient) == (0.01, 0.5 * 0.5)
    assert (agent.gamma, agent.gae_lambda, agent.max_gradient_norm) == (0.99, 0.95, 0.5)


def test_the_levels_and_the_length_of_procgen_in_c_chain():
    config = PROCGEN.with_presets({"preset": "c-chain"}).config
    stream = config.stream
    assert (stream.num_steps, stream.change_every) == (10 * 2_000_000, 2_000_000)
    assert (stream.num_envs, stream.difficulty, stream.game) == (1, "hard", "starpilot")
    levels = [stream.make_stream(10, seed=3).describe(index)["levels"] for index in range(10)]
    assert levels == [str(level) for level in range(20, 30)]
    assert config.length == stream.num_steps


@pytest.mark.parametrize(("preset", "levels"), [("small", 10), ("quick", 3)])
def test_the_lengths_of_procgen(preset, levels):
    config = PROCGEN.with_presets({"preset": preset}).config
    assert config.length == config.stream.num_steps == levels * config.stream.change_every


def test_ppo_in_procgen():
    agent = PROCGEN.config.agent
    assert (agent.image_network, agent.hidden, agent.initialization) == ("impala", (256,), "xavier")
    assert (agent.rollout_steps, agent.num_minibatches, agent.epochs) == (1000, 8, 3)
    assert (agent.learning_rate, agent.epsilon, agent.clip_range) == (1e-3, 1e-5, 0.2)
    assert (agent.entropy_coefficient, agent.value_clip_range) == (0.01, 0.2)
    assert agent.value_coefficient == 0.5 * 0.5  # of half the squared error, there
    assert (agent.gamma, agent.gae_lambda, agent.max_gradient_norm) == (0.999, 0.95, 0.5)
    assert agent.normalize_advantages == "rollout"
    assert agent.normalize_rewards


def of(benchmark, package, method, smaller=None):
    missing = importlib.util.find_spec(package) is None
    reason = f"needs {package}"
    marks = pytest.mark.skipif(missing, reason=reason)
    return pytest.param(benchmark, method, smaller or {}, marks=marks, id=package)


@pytest.mark.parametrize(
    ("benchmark", "method", "smaller"),
    [
        of(MINATAR, "minatar", ReDo(every=3, tau=0.5)),
        of(ALE, "ale_py", ReDo(every=3, tau=0.5)),
        of(PROCGEN, "procgen", Syre(), {"stream.num_steps": 192, "agent.epochs": 1}),
    ],
)
def test_a_run_continues_exactly_from_its_state(benchmark, method, smaller):
    config = with_values(
        benchmark.config,
        {
            "stream.num_steps": 384,
            "stream.change_every": 96,
            "stream.num_envs": 2,
            "stream.max_episode_steps": 60,
            "agent.hidden": (8,),
            "agent.rollout_steps": 64,
            "agent.minibatch_size": 32,
            "tracking.measure_every": 64,
            "method": (method,),
            **smaller,
        },
    )
    whole = ControlExperiment([config], stacked=False)
    rows = [whole.next_rows(lambda: False)[0] for _ in range(2)]
    assert whole._agent.observations.dtype == torch.uint8
    parts = ControlExperiment([config], stacked=False)
    parts.load_state_dict(0, copy.deepcopy(whole.state_dicts([0])[0]))
    while not whole.is_finished(0):
        rows.append(whole.next_rows(lambda: False)[0])
        assert parts.next_rows(lambda: False)[0] == rows[-1]
    key = config.stream.described[0]
    assert len({row[key] for row in rows}) > 1
    if isinstance(method, ReDo):
        assert sum(row.get("reset_units/actor.fc1", 0) for row in rows) > 0
