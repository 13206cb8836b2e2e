"""Numbers of C-CHAIN's Gym control, as in its code, and the small forms."""

import pytest

from plasticity.scripts.config.benchmarks import BENCHMARKS

OFFSETS = ("offset-cartpole", "offset-acrobot", "offset-mountaincar", "offset-lunarlander")


@pytest.mark.parametrize("name", OFFSETS)
def test_the_published_settings(name):
    """Compare with the options and constants of `control_train_aligned_vanilla.py` and `basic_utils.py`."""
    config = BENCHMARKS[name].with_presets({"preset": "c-chain"}).config
    stream, agent = config.stream, config.agent
    levels, iterations, steps, limit = 10, 200, 800, 400
    assert (stream.num_steps, stream.change_every) == (levels * iterations * steps, 200 * 800)
    assert (stream.num_envs, stream.max_episode_steps) == (1, limit)
    assert stream.changes == "observations"
    assert agent.rollout_steps == steps
    assert (agent.minibatch_size, agent.epochs, agent.learning_rate) == (32, 5, 0.001)
    assert (agent.gamma, agent.gae_lambda, agent.clip_range) == (0.99, 0.95, 0.2)
    assert (agent.entropy_coefficient, agent.value_coefficient) == (0.01, 0.5)
    assert agent.reward_scale == 1 / 20
    assert (agent.hidden, agent.activation) == ((256, 256, 256), "leaky-relu-0.1")
    assert agent.initialization == "torch"
    assert agent.normalize_advantages == "rollout"
    assert not agent.normalize_observations
    assert not agent.normalize_rewards
    assert agent.max_gradient_norm is agent.value_clip_range is agent.target_kl is None
    assert (agent.betas, agent.epsilon) == ((0.9, 0.999), 1e-8)
    assert config.length == stream.num_steps  # a row's interval divides it


@pytest.mark.parametrize("name", OFFSETS)
def test_the_small_form_is_the_benchmark_itself(name):
    benchmark = BENCHMARKS[name]
    assert benchmark.with_presets({"preset": "small"}).config == benchmark.config
    assert benchmark.config.stream.max_episode_steps is None
    assert benchmark.config.stream.environment == name.removeprefix("offset-")


@pytest.mark.parametrize("name", ["continual-cartpole", "continual-pendulum"])
def test_changing_physics_have_no_preset(name):
    assert BENCHMARKS[name].presets == {}
    assert BENCHMARKS[name].config.stream.changes == "physics"
