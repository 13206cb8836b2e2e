"""Each optimizer's network has its parameters, and computes what the policy does."""

import pytest
import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import preprocess_obs

from plasticity.sb3.trained_networks import trained_networks

contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is in the extra `dev`")
DISCRETE = (DQN, contrib.QRDQN, contrib.MaskablePPO)
ALGORITHMS = [PPO, A2C, DQN, SAC, TD3, DDPG, contrib.TQC, contrib.QRDQN, contrib.MaskablePPO]


def make(algorithm, **network):
    env = make_vec_env("CartPole-v1" if algorithm in DISCRETE else "Pendulum-v1", 3, seed=0)
    kwargs = {"net_arch": [8, 6], **network}
    model = algorithm("MlpPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu")
    return model, env.reset()


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("is_shared", [True, False])
def test_parameters_are_those_of_the_optimizer(algorithm, is_shared):
    sharing = {} if algorithm in (DQN, contrib.QRDQN) else {"share_features_extractor": is_shared}
    model, observations = make(algorithm, **sharing)
    networks = trained_networks(model.policy, observations)
    for name, network in networks.items():
        trained = {each for group in network.optimizer.param_groups for each in group["params"]}
        assert set(network.module.parameters()) == trained, name
        assert network.module(network.example).shape[0] == 3


def test_outputs_are_those_of_the_policy():
    model, observations = make(PPO)
    (network,) = trained_networks(model.policy, observations).values()
    policy, inputs = model.policy, torch.as_tensor(observations)
    means = policy.get_distribution(inputs).distribution.mean
    torch.testing.assert_close(
        network.module(network.example), torch.cat([means, policy.predict_values(inputs)], -1)
    )
    model, observations = make(SAC)
    networks = trained_networks(model.policy, observations)
    inputs, actions = torch.as_tensor(observations), networks["critic"].example[:, 3:]
    mean, log_std, _ = model.actor.get_action_dist_params(inputs)
    found = networks["actor"].module(networks["actor"].example)
    torch.testing.assert_close(found[:, :1], mean)
    torch.testing.assert_close(found[:, 1:].clamp(-20, 2), log_std)
    values = torch.cat(model.critic(inputs, actions), -1)
    torch.testing.assert_close(networks["critic"].module(networks["critic"].example), values)
    model, observations = make(DQN)
    (network,) = trained_networks(model.policy, observations).values()
    torch.testing.assert_close(
        network.module(network.example), model.q_net(torch.as_tensor(observations))
    )


def test_inputs_in_training_are_those_of_the_network():
    model, observations = make(TD3)
    seen = []
    network = trained_networks(model.policy, observations)["actor"]
    handle = network.on_inputs(seen.append)
    given = torch.randn(5, 3)
    model.actor(given)
    handle.remove()
    model.actor(given)
    (only,) = seen
    assert torch.equal(only, preprocess_obs(given, model.observation_space))
