"""PolicyNetworks has exactly the trained parameters, and runs each network once, as SB3 does."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.nn import functional

from plasticity.metrics.capture import capture
from plasticity.metrics.dormancy import ZERO_WHEN_DEAD
from plasticity.metrics.norms import weight_norm
from plasticity.preserve_state import preserve_state
from plasticity.sb3.networks import _RELU_FAMILY, policy_networks

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
BOTH = spaces.Dict({"image": IMAGE, "vector": VECTOR})
MOVES = spaces.Box(-2.0, 2.0, (2,), np.float32)
CHOICES = spaces.Discrete(3)

CONTINUOUS = (SAC, TD3, DDPG, TQC, CrossQ)
DISCRETE = (DQN, QRDQN, MaskablePPO)
OFF_POLICY = (*CONTINUOUS, DQN, QRDQN)
ALGORITHMS = (PPO, A2C, TRPO, RecurrentPPO, *DISCRETE, *CONTINUOUS)
SPACES = {"Mlp": VECTOR, "Cnn": IMAGE, "MultiInput": BOTH}


class Still(gymnasium.Env):
    """Environment with random observations and nothing else."""

    def __init__(self, observation_space, action_space):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}

    def action_masks(self):
        return np.ones(3, dtype=bool)


def make(algorithm, kind="Mlp", **policy_kwargs):
    if algorithm is RecurrentPPO:
        kind += "Lstm"
        policy_kwargs.setdefault("lstm_hidden_size", 6)
    settings = {"buffer_size": 10} if algorithm in OFF_POLICY else {"n_steps": 128}
    actions = CHOICES if algorithm in DISCRETE else MOVES
    env = Still(SPACES[kind.removesuffix("Lstm")], actions)
    policy_kwargs.setdefault("net_arch", [8, 7])
    return algorithm(
        f"{kind}Policy", env, seed=0, device="cpu", policy_kwargs=policy_kwargs, **settings
    )


def batch(model, count=5):
    space = model.observation_space
    space.seed(1)
    samples = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


def inputs_of(networks, model):
    return networks.inputs(networks.observations_to_tensor(batch(model)))


def optimizers_of(policy):
    if hasattr(policy, "optimizer"):
        return [policy.optimizer]
    return [policy.actor.optimizer, policy.critic.optimizer]


def trained(policy):
    return {
        id(parameter)
        for optimizer in optimizers_of(policy)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.__name__)
def test_parameters_are_those_that_the_optimizers_train(algorithm, kind):
    if algorithm is CrossQ and kind != "Mlp":
        pytest.skip("CrossQ has vectors only")
    model = make(algorithm, kind)
    networks = policy_networks(model.policy)
    mine = [id(parameter) for parameter in networks.parameters()]
    assert len(mine) == len(set(mine))
    assert set(mine) == trained(model.policy)
    # and each of their activations is captured once
    layers = networks.hidden_layers(inputs_of(networks, model))
    assert len(set(layers)) == len(layers)
    assert not any("#" in layer for layer in layers)
    modules = dict(networks.named_modules())
    activations = {n for n, m in modules.items() if isinstance(m, (nn.ReLU, nn.Tanh))}
    memories = {n for n in ("lstm_actor", "lstm_critic") if n in modules}
    bound = {"actor.mu.5"} if algorithm in (TD3, DDPG) else set()  # 8, 7 units, the tanh
    critic = {"critic_input"} & set(modules)
    assert set(layers) - bound == (activations | memories) - bound - critic
    assert not bound & set(layers)


MLP = {
    PPO: ("actor.1", "actor.3", "critic.1", "critic.3"),
    A2C: ("actor.1", "actor.3", "critic.1", "critic.3"),
    TRPO: ("actor.1", "actor.3", "critic.1", "critic.3"),
    MaskablePPO: ("actor.1", "actor.3", "critic.1", "critic.3"),
    RecurrentPPO: ("lstm_actor", "lstm_critic", "actor.1", "actor.3", "critic.1", "critic.3"),
    DQN: ("q_net.1", "q_net.3"),
    QRDQN: ("quantile_net.1", "quantile_net.3"),
    DDPG: ("actor.mu.1", "actor.mu.3", "critic.qf0.1", "critic.qf0.3"),
    SAC: (
        "actor.latent_pi.1", "actor.latent_pi.3",
        "critic.qf0.1", "critic.qf0.3", "critic.qf1.1", "critic.qf1.3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("algorithm", MLP, ids=lambda a: a.__name__)
def test_layer_names(algorithm):
    model = make(algorithm)
    networks = policy_networks(model.policy)
    assert networks.hidden_layers(inputs_of(networks, model)) == MLP[algorithm]


def test_layer_names_with_images_and_separate_extractors():
    model = make(PPO, "Cnn", share_features_extractor=False, net_arch=[])
    networks = policy_networks(model.policy)
    layers = networks.hidden_layers(inputs_of(networks, model))
    inner = ("cnn.1", "cnn.3", "cnn.5", "linear.1")
    assert layers == tuple(
        f"{whose}_features_extractor.{name}" for whose in ("pi", "vf") for name in inner
    )
    assert {id(parameter) for parameter in networks.parameters()} == trained(model.policy)
    model = make(SAC, "Cnn", share_features_extractor=True)
    networks = policy_networks(model.policy)
    layers = networks.hidden_layers(inputs_of(networks, model))
    assert layers[:4] == tuple(f"actor.features_extractor.{name}" for name in inner)
    assert not any(layer.startswith("critic.features") or "#" in layer for layer in layers)


def outputs_of(networks, inputs, module):
    """Return the output of a module of the policy while the networks run."""
    seen = []
    handle = module.register_forward_hook(lambda _m, _a, output: seen.append(output))
    with torch.no_grad():
        networks(*inputs)
    handle.remove()
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("shared", [True, False])
def test_values_and_actions_equal_those_of_ppo(kind, shared):
    model = make(PPO, kind, share_features_extractor=shared)
    networks = policy_networks(model.policy)
    inputs = inputs_of(networks, model)
    with torch.no_grad():
        values = model.policy.predict_values(inputs[0])
        means = model.policy.get_distribution(inputs[0]).distribution.mean
    torch.testing.assert_close(outputs_of(networks, inputs, model.policy.value_net), values)
    torch.testing.assert_close(outputs_of(networks, inputs, model.policy.action_net), means)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("algorithm", [SAC, TD3, TQC], ids=lambda a: a.__name__)
def test_values_and_actions_equal_those_of_sac_and_similar_algorithms(algorithm, kind, shared):
    model = make(algorithm, kind, share_features_extractor=shared)
    policy = model.policy
    networks = policy_networks(policy)
    inputs = inputs_of(networks, model)
    means = outputs_of(networks, inputs, policy.actor.mu)
    with torch.no_grad():
        expected = policy.critic(*inputs)
        actions = policy.actor(inputs[0], **({} if algorithm is TD3 else {"deterministic": True}))
    # SAC's actor bounds its mean in the distribution, TD3's in its last layer
    torch.testing.assert_close(means if algorithm is TD3 else means.tanh(), actions)
    torch.testing.assert_close(inputs[1], actions)
    first = expected[:, 0] if algorithm is TQC else expected[0]
    torch.testing.assert_close(outputs_of(networks, inputs, policy.critic.qf0), first)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"enable_critic_lstm": False},
        {"enable_critic_lstm": False, "shared_lstm": True},
        {"n_lstm_layers": 2, "share_features_extractor": False},
    ],
    ids=["apart", "actor only", "shared", "two layers"],
)
def test_recurrent_values_use_the_states_of_the_rollout(options):
    model = make(RecurrentPPO, **options)
    model.learn(128)
    policy = model.policy
    networks = policy_networks(policy)
    model._last_episode_starts = np.array([False])
    states = model._last_lstm_states
    with torch.no_grad():
        values = policy.predict_values(
            policy.obs_to_tensor(model._last_obs)[0], states.vf, torch.zeros(1)
        )
    inputs = networks.latest_inputs(model, {})
    torch.testing.assert_close(outputs_of(networks, inputs, policy.value_net), values)
    assert float(inputs[1].abs().max()) > 0
    # where an episode begins, the states count as zero
    model._last_episode_starts = np.array([True])
    inputs = networks.latest_inputs(model, {})
    assert all(not state.any() for state in inputs[1:])
    fresh = networks.inputs(inputs[0])
    assert [state.shape for state in inputs[1:]] == [state.shape for state in fresh[1:]]
    memories = [
        name for name in ("lstm_actor", "lstm_critic") if name in dict(networks.named_children())
    ]
    assert list(networks.hidden_layers(fresh)[: len(memories)]) == memories


def test_bounds_of_state_dependent_exploration_are_not_hidden_layers():
    settings = {"buffer_size": 10, "policy_kwargs": {"net_arch": [8]}, "device": "cpu"}
    model = SAC("MlpPolicy", Still(VECTOR, MOVES), use_sde=True, **settings)
    networks = policy_networks(model.policy)
    layers = networks.hidden_layers(inputs_of(networks, model))
    assert layers == ("actor.latent_pi.1", "critic.qf0.1", "critic.qf1.1")
    assert {id(p) for p in networks.parameters()} == trained(model.policy)


class Functional(BaseFeaturesExtractor):
    """Network with functional activations, one of them used twice."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 6)
        self.first = nn.Linear(3, 5)
        self.second = nn.Linear(5, 6)

    def forward(self, observations):
        return torch.tanh(functional.relu(self.second(functional.relu(self.first(observations)))))


def test_functional_activations_and_which_of_them_saturate():
    model = make(PPO, features_extractor_class=Functional, activation_fn=nn.ELU)
    networks = policy_networks(model.policy)
    layers = networks.hidden_layers(inputs_of(networks, model))
    assert layers[:3] == ("relu", "relu#2", "tanh")
    assert [networks.saturates(layer) for layer in layers[:4]] == [False, False, True, True]
    assert not policy_networks(make(DQN).policy).saturates("q_net.1")
    recurrent = policy_networks(make(RecurrentPPO, activation_fn=nn.LeakyReLU).policy)
    assert recurrent.saturates("lstm_actor")
    assert not recurrent.saturates("actor.1")


class OwnExtractor(nn.Module):
    """Custom mlp_extractor without policy_net and value_net, as Stable-Baselines3's guide allows."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.latent_dim_pi = self.latent_dim_vf = 4

    def forward(self, features):
        trunk = self.trunk(features)
        return trunk, trunk

    def forward_actor(self, features):
        return self.trunk(features)

    forward_critic = forward_actor


def test_a_custom_mlp_extractor():
    model = make(PPO)
    policy = model.policy
    policy.mlp_extractor = OwnExtractor()
    policy.action_net, policy.value_net = nn.Linear(4, 2), nn.Linear(4, 1)
    networks = policy_networks(policy)
    assert networks.hidden_layers(inputs_of(networks, model)) == ("mlp_extractor.trunk.1",)


def test_measuring_preserves_the_policys_state():
    model = make(SAC)
    networks = policy_networks(model.policy)
    model.policy.set_training_mode(True)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    inputs = inputs_of(networks, model)
    networks.hidden_layers(inputs)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.policy.actor.modules())
    assert not inputs[1].requires_grad


def compiled(module):
    return torch.compile(module, backend="eager")


def wrap_whole(policy):
    return compiled(policy)


def wrap_in_place(policy):
    policy.compile(backend="eager")
    return policy


def wrap_parts(policy):
    """Wrap every part that the algorithm reaches through the policy's attributes."""
    for name in ("features_extractor", "mlp_extractor", "action_net", "q_net", "actor", "critic"):
        if hasattr(policy, name):
            setattr(policy, name, compiled(getattr(policy, name)))
    return policy


def wrap_layers(policy):
    for module in list(policy.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, nn.DataParallel(compiled(child)))
    return policy


@pytest.mark.parametrize("wrap", [wrap_whole, wrap_in_place, wrap_parts, wrap_layers])
@pytest.mark.parametrize("algorithm", [PPO, RecurrentPPO, DQN, SAC], ids=lambda a: a.__name__)
def test_wrapped_policies_have_the_same_names_and_features_as_plain_ones(algorithm, wrap):
    if wrap is wrap_parts and algorithm is RecurrentPPO:
        pytest.skip("its LSTMs are parts that SB3 looks into")
    model = make(algorithm)
    plain = policy_networks(model.policy)
    inputs = inputs_of(plain, model)
    layers = plain.hidden_layers(inputs)
    names = list(weight_norm(plain))
    with preserve_state(plain), capture(plain, layers) as expected:
        plain(*inputs)
    wrapped = policy_networks(wrap(model.policy))
    assert wrapped.hidden_layers(inputs) == layers
    assert list(weight_norm(wrapped)) == names
    assert [wrapped.saturates(layer) for layer in layers] == [plain.saturates(n) for n in layers]
    with preserve_state(wrapped), capture(wrapped, layers) as activations:
        wrapped(*inputs)
    for layer in layers:
        assert torch.equal(activations[layer], expected[layer]), layer
    torch._dynamo.reset()


@pytest.mark.parametrize("form", [np.asarray, torch.as_tensor, np.ndarray.tolist])
def test_observations_in_any_form_are_accepted(form):
    model = make(PPO)
    networks = policy_networks(model.policy)
    tensor = networks.observations_to_tensor(form(batch(model)))
    np.testing.assert_allclose(tensor.numpy(), batch(model), rtol=1e-6)


def test_images_may_have_channels_last():
    model = make(PPO, "Cnn")
    networks = policy_networks(model.policy)
    images = np.random.default_rng(0).integers(0, 255, (4, 36, 36, 1), np.uint8)
    tensor = networks.observations_to_tensor(images)
    assert tensor.dtype == torch.uint8
    assert torch.equal(tensor, torch.as_tensor(images).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("kind", "observations"),
    [
        ("Mlp", np.zeros(3, np.float32)),
        ("Mlp", np.zeros((1, 3), np.float32)),
        ("Mlp", {"vector": np.zeros((2, 3), np.float32)}),
        ("MultiInput", np.zeros((2, 3), np.float32)),
        ("Mlp", np.zeros((5, 4), np.float32)),
    ],
)
def test_observations_that_do_not_fit_are_rejected(kind, observations):
    networks = policy_networks(make(PPO, kind).policy)
    with pytest.raises(ValueError, match=r"observation"):
        networks.observations_to_tensor(observations)


def test_no_hidden_layer_raises_an_error_with_a_remedy():
    model = make(PPO, net_arch=[])
    networks = policy_networks(model.policy)
    with pytest.raises(ValueError, match=r"no hidden activation.*layers=\['action_net'\]"):
        networks.hidden_layers(inputs_of(networks, model))


def test_an_unknown_policy_raises_an_error_that_names_it():
    class Strange(BasePolicy):
        def _predict(self, observation, deterministic=False):
            return observation

    with pytest.raises(TypeError, match=r"a Strange are not known.*Tracker"):
        policy_networks(Strange(VECTOR, MOVES))


def test_layers_can_be_captured_by_name():
    model = make(RecurrentPPO)
    networks = policy_networks(model.policy)
    inputs = inputs_of(networks, model)
    with capture(networks, ["lstm_actor", "actor.1"]) as activations, torch.no_grad():
        networks(*inputs)
    assert {name: tuple(value.shape) for name, value in activations.items()} == {
        "lstm_actor": (5, 6),
        "actor.1": (5, 8),
    }


def test_modules_and_functions_of_the_relu_family_agree():
    modules = {module.__name__.lower() for module in _RELU_FAMILY}
    assert modules == {name.replace("_", "") for name in ZERO_WHEN_DEAD}
    assert all(hasattr(functional, name) for name in ZERO_WHEN_DEAD)
