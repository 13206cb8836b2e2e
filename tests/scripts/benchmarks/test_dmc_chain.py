"""Numbers of C-CHAIN's continual DMC, as in its code, and the small form."""

import pytest

from plasticity.scripts.config.benchmarks import BENCHMARKS

BENCHMARK = BENCHMARKS["dmc-chain"]


@pytest.mark.parametrize(("domain", "tasks"), [("walker", 3), ("quadruped", 3), ("dog", 4)])
def test_the_published_chains(domain, tasks):
    config = BENCHMARK.with_presets({"preset": domain}).config
    assert config.stream.domain == domain
    assert (config.stream.num_steps, config.stream.change_every) == (tasks * 10**6, 10**6)
    assert config.stream.num_envs == 1
    assert config.stream.chain == ()  # the published order is that of the domain
    agent = config.agent
    # `crl_run_ppo_dmc.py`: 2048 steps, 32 minibatches, 10 epochs
    assert (agent.rollout_steps, agent.num_minibatches, agent.epochs) == (2048, 32, 10)
    assert (agent.learning_rate, agent.epsilon) == (3e-4, 1e-5)
    assert (agent.gamma, agent.gae_lambda, agent.clip_range) == (0.99, 0.95, 0.2)
    # the loss of values is vf_coef * 0.5 * mean((V - R)^2), with vf_coef = 0.5
    assert (agent.value_clip_range, agent.value_coefficient) == (0.2, 0.5 * 0.5)
    assert (agent.entropy_coefficient, agent.max_gradient_norm) == (0.0, 0.5)
    assert agent.normalize_observations
    assert agent.normalize_rewards
    assert (agent.hidden, agent.activation) == ((256, 256), "relu")
    assert (agent.initialization, agent.initial_log_std) == ("orthogonal", 0.0)


def test_the_small_form_is_the_benchmark_itself():
    assert BENCHMARK.with_presets({"preset": "small"}).config == BENCHMARK.config
    assert BENCHMARK.config.stream.num_steps == 3 * BENCHMARK.config.stream.change_every
