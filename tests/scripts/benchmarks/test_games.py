"""Games in turn: the published numbers, the lengths of the presets, and a run that continues exactly."""

import copy
import importlib.util

import pytest
import torch

from plasticity.mitigations.redo import ReDo
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.control_experiment import ControlExperiment

MINATAR, ALE = BENCHMARKS["minatar-sequence"], BENCHMARKS["ale-sequence"]


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


def of(benchmark, package):
    missing = importlib.util.find_spec(package) is None
    reason = f"needs {package}"
    return pytest.param(benchmark, marks=pytest.mark.skipif(missing, reason=reason), id=package)


@pytest.mark.parametrize("benchmark", [of(MINATAR, "minatar"), of(ALE, "ale_py")])
def test_a_run_continues_exactly_from_its_state(benchmark):
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
            "method": (ReDo(every=3, tau=0.5),),
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
    assert {row["game"] for row in rows} >= set(config.stream.games[:2])
    assert sum(row.get("reset_units/actor.fc1", 0) for row in rows) > 0
