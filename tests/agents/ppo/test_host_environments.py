"""A Gymnasium vector environment presented as one on the device: same numbers, one block each way."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from plasticity.agents.networks.images import ImageFormat
from plasticity.agents.ppo.environments import environment_seeds
from plasticity.agents.ppo.host_environments import HostEnvironments, Spaces, _tensor
from plasticity.tasks.vector.environments import VectorEnvironments

SEEDS = environment_seeds(0, 3)


class Walk(gym.Env):
    """Sums actions, (2, 1). Episodes differ in length; every other one ends in death."""

    observation_space = spaces.Box(-np.inf, np.inf, (2, 1))
    action_space = spaces.Box(np.array([-1, -2], np.float32), np.array([3, 4], np.float32))
    reports = True

    def __init__(self):
        self.episode = -1

    def info(self):
        return {"task": self.episode // 2} if self.reports else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.left = int(self.np_random.integers(2, 5))
        self.state = self.np_random.normal(size=(2, 1))
        return self.state.astype(np.float32), self.info()

    def step(self, action):
        self.state = self.state + action[:, None]
        self.left -= 1
        died = self.left == 0 and self.episode % 2 == 1
        observation, reward = self.state.astype(np.float32), float(self.state.sum())
        return observation, reward, died, self.left == 0 and not died, self.info()

    def state_dict(self):
        return {"now": (self.episode, self.left, self.state), "random": self.np_random}

    def load_state_dict(self, state):
        self.episode, self.left, self.state = state["now"]
        self.np_random = state["random"]


class Silent(Walk):
    reports = False


def envs(make=Walk, device="cpu"):
    return HostEnvironments(VectorEnvironments([make] * 3), SEEDS, device)


def actions(count, seed=0):
    return torch.randn(count, 3, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
        ),
    ],
)
def test_every_step_equals_that_of_the_vector_environment(device):
    ours, vector = envs(device=device), VectorEnvironments([Walk] * 3)
    observations, infos = vector.reset(seed=SEEDS)
    assert ours.reset().tolist() == observations.reshape(3, 2).tolist()
    seen = np.zeros(2, bool)
    for action in actions(20):
        assert ours.tasks.tolist() == infos["task"].tolist()
        step = ours.step(action.to(device))
        observations, rewards, terminated, truncated, infos = vector.step(action.numpy())
        assert {part.device.type for part in step} == {device}
        assert step.observations.tolist() == observations.reshape(3, 2).tolist()
        assert step.rewards.tolist() == rewards.tolist()
        assert step.terminated.tolist() == terminated.tolist()
        assert step.truncated.tolist() == truncated.tolist()
        finals = observations.reshape(3, 2).copy()
        for index in np.flatnonzero(terminated | truncated):
            finals[index] = infos["final_obs"][index].ravel()
        assert step.final_observations.tolist() == finals.tolist()
        seen |= [terminated.any(), truncated.any()]
    assert seen.all()


def test_attributes_needed_by_an_agent():
    ours = envs()
    assert (ours.num_envs, ours.observation_size, ours.action_size) == (3, 2, 2)
    assert (ours.action_low.tolist(), ours.action_high.tolist()) == ([-1, -2], [3, 4])
    assert ours.device == torch.device("cpu")
    ours.check()
    ours.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        ours.reset()


def test_environments_without_tasks():
    ours = envs(Silent)
    ours.reset()
    for action in actions(6):
        ours.step(action)
    assert ours.tasks.tolist() == [-1] * 3
    assert ours.state_dict()["tasks"].tolist() == [-1] * 3


def test_a_reset_starts_over():
    ours = envs()
    first = ours.reset().clone()
    for action in actions(8):
        ours.step(action)
    assert ours.tasks.max() > 0
    again = ours.reset()
    assert again.tolist() == first.tolist()


def test_discrete_actions():
    def make():
        return VectorEnvironments([lambda: gym.make("CartPole-v1").unwrapped] * 3)

    ours, vector = HostEnvironments(make(), SEEDS), make()
    assert (ours.discrete, ours.action_size, ours.action_low) == (True, 2, None)
    observations, _ = vector.reset(seed=SEEDS)
    assert ours.reset().tolist() == observations.tolist()
    for step in range(30):
        actions = torch.tensor([0, 1, step % 2])
        found = ours.step(actions)
        observations, rewards, terminated, *_ = vector.step(actions.numpy())
        assert found.observations.tolist() == observations.tolist()
        assert found.rewards.tolist() == rewards.tolist()
        assert found.terminated.tolist() == terminated.tolist()


def test_an_observation_is_not_copied_on_a_cpu():
    """It keeps the type and the memory of the vector environment's array."""

    class Kept(gym.vector.VectorEnv):
        num_envs = 2
        metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012
        single_observation_space = spaces.Box(-1, 1, (3,), np.float64)
        single_action_space = spaces.Box(-1, 1, (1,))
        seen = np.ones((2, 3))

        def step(self, actions):
            none = np.zeros(2, bool)
            return self.seen, np.zeros(2), none, none, {}

    ours = HostEnvironments(Kept(), [1, 2])
    step = ours.step(torch.zeros(2, 1))
    assert step.observations.dtype == torch.float64
    assert step.observations.data_ptr() == Kept.seen.ctypes.data
    assert step.final_observations is step.observations  # no episode ended
    Kept.seen.flags.writeable = False
    assert ours.step(torch.zeros(2, 1)).observations.tolist() == Kept.seen.tolist()


def test_one_block_is_transferred_each_way(crossings):
    ours = envs(device="meta")
    crossings.into.clear()
    ours.reset()
    # for 3 environments: 8-byte rewards and tasks, 2 x 4 bytes of observations and of final observations, and
    # 2 flags, each array rounded up to a multiple of 8 bytes
    often, reset, whole = 24 + 24 + 8 + 3, 24 + 24 + 8 + 8 + 24, 24 + 24 + 8 + 8 + 24 + 24
    assert crossings.into == [(reset,)]
    ends = 0
    for _ in range(12):
        crossings.into.clear()
        crossings.out.clear()
        step = ours.step(torch.zeros(3, 2, device="meta"))
        assert crossings.out == [(3, 2)]
        ended = step.final_observations is not step.observations
        assert crossings.into == [(whole if ended else often,)]
        ends += ended
    assert 0 < ends < 12


def test_data_in_transfer_is_not_overwritten(crossings):
    """A reset, a step and a loaded state wait for the previous copy to arrive."""
    ours = envs(device="meta")
    ours.reset()
    state, host = copy.deepcopy(ours.state_dict()), ours._block._on_host
    waits = []

    class Arrival:
        def synchronize(self):
            waits.append(host["tasks"].tolist() == [7] * 3)

        def record(self):
            pass

    ours._block._arrived = Arrival()
    for act in (
        ours.reset,
        lambda: ours.load_state_dict(state),
        lambda: [ours.step(torch.zeros(3, 2, device="meta")) for _ in range(5)],  # to an end
    ):
        waits.clear()
        host["tasks"][:] = 7
        act()
        assert waits[0]
        assert host["tasks"].tolist() != [7] * 3


@pytest.mark.parametrize(
    "reported",
    [
        np.array(["reach-v2", "push-v2", "push-v3"]),
        np.array([None, {}, 1], object),
        np.array([[1, 2], [3, 4]]),
        np.array([True, False, True]),
        np.array([1.5, 2.0, 3.0]),
        {"name": np.array([1, 2, 3])},
    ],
    ids=["string", "object", "rows", "bool", "float", "dict"],
)
def test_tasks_that_are_not_integers_count_as_none(reported):
    ours = envs()
    ours._note({"task": np.array([1, 2, 3])})
    assert ours._note({"task": reported})
    assert ours.tasks.tolist() == [-1] * 3


def test_tasks_of_some_environments():
    ours, given = envs(), np.array([0, 0, 2**40])
    ours._note({"task": np.array([4, 5, 6], np.int32)})
    assert ours._note({"task": given, "_task": np.array([False, False, True])})
    given[2] = 0  # the environments' arrays are copied
    assert ours.tasks.tolist() == [4, 5, 2**40]
    assert not ours._note({})
    assert ours.tasks.tolist() == [4, 5, 2**40]


def test_a_task_that_changes_within_an_episode_is_reported():
    class Restless(Walk):
        def info(self):
            return {"task": self.left}

    ours = envs(Restless)
    ours.reset()
    before = ours.tasks.clone()
    assert not ours.step(torch.zeros(3, 2)).truncated.any()
    assert ours.tasks.tolist() == (before - 1).tolist()


def turned(part):
    """Move the last environment to the front."""
    return part.roll(1, 0) if isinstance(part, torch.Tensor) else [part[-1], *part[:-1]]


def test_continues_with_reordered_environments():
    straight, given = envs(), actions(12)
    straight.reset()
    for action in given[:5]:
        straight.step(action)
    state = copy.deepcopy(straight.state_dict())
    assert {len(part) for part in state.values()} == {3}
    other = envs()
    other.reset()
    other.load_state_dict({name: turned(part) for name, part in state.items()})
    assert other.tasks.tolist() == turned(straight.tasks).tolist()
    for action in given[5:]:
        found, expected = other.step(turned(action)), straight.step(action)
        for one, wanted in zip(found, expected, strict=True):
            assert one.tolist() == turned(wanted).tolist()
    assert other.tasks.tolist() == turned(straight.tasks).tolist()


@pytest.mark.parametrize(
    ("make", "seeds", "error", "message"),
    [
        (lambda: VectorEnvironments([Walk] * 3), [1, 2], ValueError, "3 environments need as many"),
        (lambda: gym.make_vec("Pendulum-v1", 1), [1], ValueError, "autoreset_mode="),
    ],
)
def test_wrong_arguments(make, seeds, error, message):
    with pytest.raises(error, match=message):
        HostEnvironments(make(), seeds)


# ---- spaces ------------------------------------------------------------------------------------------

SAME_STEP = gym.vector.AutoresetMode.SAME_STEP


class Still(gym.Env):
    """Environment in which nothing happens."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def vector(observation_space, action_space, mode=SAME_STEP):
    return gym.vector.SyncVectorEnv(
        [lambda: Still(observation_space, action_space)] * 2, autoreset_mode=mode
    )


BOX = spaces.Box(-1.0, 1.0, (3,))


def test_box():
    low = np.array([[-1, -np.inf], [0, 2]], np.float64)
    high = np.array([[1, np.inf], [3, 4]], np.float64)
    found = Spaces.of(vector(spaces.Box(0, 1, (2, 3)), spaces.Box(low, high, dtype=np.float64)))
    assert (found.observation_size, found.action_size, found.discrete) == (6, 4, False)
    assert found.action_shape == (2, 2)
    assert found.action_dtype == np.float64
    assert found.low.tolist() == [-1, -np.inf, 0, 2]
    assert found.high.tolist() == [1, np.inf, 3, 4]


def test_images():
    screens = spaces.Box(0, 255, (4, 8, 6), np.uint8)
    assert Spaces.of(vector(screens, BOX)).images == ImageFormat((4, 8, 6), 255)
    assert Spaces.of(vector(spaces.Box(0, 1, (2, 3, 3), np.uint8), BOX)).images.highest == 1
    for other in (spaces.Box(0, 255, (24,), np.uint8), spaces.Box(0, 1, (4, 8, 6), np.float32)):
        assert Spaces.of(vector(other, BOX)).images is None


def test_discrete_actions_that_do_not_start_at_zero():
    found = Spaces.of(vector(BOX, spaces.Discrete(4, start=-2)))
    assert (found.action_size, found.discrete, found.action_shape) == (4, True, ())
    assert (found.low, found.high) == (-2, 1)


@pytest.mark.parametrize(
    ("observations", "actions", "error", "message"),
    [
        (spaces.Discrete(3), BOX, TypeError, "observations from a Box, not Discrete.*Flatten"),
        (BOX, spaces.MultiDiscrete([2, 3]), TypeError, "Box of floats or from Discrete, not Multi"),
        (BOX, spaces.Box(0, 5, (2,), np.int64), TypeError, "Box of floats"),
    ],
)
def test_rejected_spaces(observations, actions, error, message):
    with pytest.raises(error, match=message):
        Spaces.of(vector(observations, actions))


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_rejected_autoreset_modes(mode):
    envs = vector(BOX, BOX, gym.vector.AutoresetMode(mode))
    with pytest.raises(
        ValueError, match=r"set autoreset_mode=gymnasium\.vector\.AutoresetMode\.SAME_STEP"
    ):
        Spaces.of(envs)


def test_reversed_and_read_only_arrays_become_tensors():
    array = np.arange(6.0).reshape(2, 3)
    read_only = array.copy()
    read_only.flags.writeable = False
    for given in (array, array[:, ::-1], array[::-1], read_only):
        assert np.array_equal(_tensor(given).numpy(), given)
    assert np.shares_memory(_tensor(array).numpy(), array)
