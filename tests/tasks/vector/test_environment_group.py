"""Group of environments: results that go through the arrays, and those reported separately."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from plasticity.tasks.vector.environment_group import (
    Description,
    EnvironmentGroup,
    Layout,
    Report,
    require_same,
)


class Reporting(gymnasium.Env):
    """Environment that reports the action as its info, ends when it is negative, and keeps its actions."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Box(-9, 9, (1,), np.float32)

    def __init__(self, as_array=False):
        self.actions = []
        self.as_array = as_array

    def _info(self, value):
        return {"action": np.full(2, value) if self.as_array else value}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2), self._info(0.0)

    def step(self, action):
        self.actions.append(action)
        value = float(action[0])
        return np.full(2, value), value, value < -1, value < 0, self._info(abs(value))


def group_of(*envs):
    group = EnvironmentGroup([lambda env=env: env for env in envs])
    layout = Layout.of(group.description, len(envs))
    arrays = layout.arrays(bytearray(layout.num_bytes))
    group.attach(arrays)
    return group, arrays


def stepped(group, arrays, *actions):
    arrays.actions[:, 0] = actions
    return group.step()


def test_numbers_go_through_the_arrays():
    group, arrays = group_of(Reporting(), Reporting())
    assert group.reset([1, 2], None) == [
        Report(0, {"action": 0.0}, None),
        Report(1, {"action": 0.0}, None),
    ]
    stepped(group, arrays, 3, 4)
    assert arrays.observations.tolist() == [[3, 3], [4, 4]]
    assert arrays.rewards.tolist() == [3, 4]
    assert arrays.terminated.tolist() == arrays.truncated.tolist() == [False, False]


def test_an_info_is_reported_when_it_changes():
    group, arrays = group_of(Reporting(), Reporting())
    group.reset([None, None], None)
    assert stepped(group, arrays, 0, 5) == [Report(1, {"action": 5.0}, None)]
    assert stepped(group, arrays, 0, 5) == []
    assert stepped(group, arrays, 6, 0) == [
        Report(0, {"action": 6.0}, None),
        Report(1, {"action": 0.0}, None),
    ]


def test_an_info_with_an_array_is_always_reported():
    group, arrays = group_of(Reporting(as_array=True))
    group.reset([None], None)
    for _ in range(2):
        ((number, info, final),) = stepped(group, arrays, 5)
        assert (number, info["action"].tolist(), final) == (0, [5, 5], None)


def test_the_end_of_an_episode_is_reported_and_the_next_one_begins():
    group, arrays = group_of(Reporting(), Reporting())
    group.reset([None, None], None)
    ((number, info, (observation, final_info)),) = stepped(group, arrays, 0, -3)
    assert (number, info) == (1, None)  # that of the reset: 0, as before
    assert observation.tolist() == [-3, -3]
    assert final_info == {"action": 3.0}
    assert arrays.observations.tolist() == [[0, 0], [0, 0]]
    assert arrays.rewards.tolist() == [0, -3]
    assert arrays.terminated.tolist() == [False, True]
    stepped(group, arrays, -0.5, 1)
    assert arrays.terminated.tolist() == [False, False]
    assert arrays.truncated.tolist() == [True, False]


def test_final_results_survive_an_environment_that_reuses_its_buffers():
    class Buffered(Reporting):
        def __init__(self):
            super().__init__()
            self.buffer, self.kept = np.zeros(2, np.float32), {}

        def _write(self, value):
            self.buffer[:] = value
            self.kept["action"] = value
            return self.buffer, self.kept

        def reset(self, *, seed=None, options=None):
            return self._write(0.0)

        def step(self, action):
            observation, info = self._write(float(action[0]))
            return observation, 0.0, False, True, info

    group, arrays = group_of(Buffered())
    group.reset([None], None)
    ((_, _, (observation, info)),) = stepped(group, arrays, 5)
    assert (observation.tolist(), info) == ([5, 5], {"action": 5.0})


def test_an_environment_may_keep_its_action():
    env = Reporting()
    group, arrays = group_of(env)
    group.reset([None], None)
    stepped(group, arrays, 1)
    stepped(group, arrays, 2)
    assert [action.tolist() for action in env.actions] == [[1], [2]]


def test_an_environment_may_keep_its_info():
    class Mutating(Reporting):
        kept = {}  # noqa: RUF012

        def _info(self, value):
            self.kept["action"] = value
            return self.kept

    group, arrays = group_of(Mutating())
    group.reset([None], None)
    assert stepped(group, arrays, 5)[0].info == {"action": 5.0}
    assert stepped(group, arrays, 5) == []


@given(st.integers(1, 20), st.lists(st.integers(1, 5), max_size=3), st.booleans())
def test_arrays_do_not_overlap(num_envs, shape, discrete):
    action = spaces.Discrete(3) if discrete else spaces.Box(0, 1, (2,), np.float32)
    observation = spaces.Box(0, 255, tuple(shape), np.uint8)
    layout = Layout.of(Description(observation, action, None), num_envs)
    arrays = layout.arrays(bytearray(layout.num_bytes))
    assert arrays.actions.shape == (num_envs, *action.shape)
    assert arrays.actions.dtype == action.dtype
    assert arrays.observations.shape == (num_envs, *shape)
    for value, array in enumerate(arrays):
        array[...] = bool(value % 2)
    for value, array in enumerate(arrays):
        assert (array == bool(value % 2)).all()


def test_a_part_is_a_view():
    layout = Layout.of(Description(Reporting.observation_space, Reporting.action_space, None), 4)
    arrays = layout.arrays(bytearray(layout.num_bytes))
    part = arrays.part(range(1, 3))
    for array in part:
        assert len(array) == 2
        array[...] = 1
    assert arrays.rewards.tolist() == [0, 1, 1, 0]
    assert arrays.terminated.tolist() == [False, True, True, False]


@pytest.mark.parametrize("name", ["observation", "action"])
def test_spaces_without_a_fixed_shape_are_refused(name):
    fixed, other = spaces.Discrete(2), spaces.Dict({"a": spaces.Discrete(2)})
    pair = (other, fixed) if name == "observation" else (fixed, other)
    with pytest.raises(TypeError, match=f"The {name} must be an array .*AsyncVectorEnv"):
        Layout.of(Description(*pair, None), 2)


def test_different_environments_are_refused():
    one = Description(spaces.Discrete(2), spaces.Discrete(2), None)
    assert require_same([one, one], [0, 1]) == one
    with pytest.raises(
        ValueError, match=r"same action_space: number 4.*Discrete\(2\).*number 7.*Discrete\(3\)"
    ):
        require_same([one, one._replace(action_space=spaces.Discrete(3))], [4, 7])


def test_different_environments_are_named_by_their_index_among_all():
    class Other(Reporting):
        action_space = spaces.Discrete(3)

    with pytest.raises(ValueError, match=r"number 5 has .*, number 6 has Discrete"):
        EnvironmentGroup([Reporting, Other], first=5)


def test_every_environment_is_closed_despite_an_error():
    closed = []

    class Closing(Reporting):
        def close(self):
            closed.append(self)
            raise ValueError(f"number {len(closed)}")

    group, _ = group_of(Closing(), Closing())
    with pytest.raises(ValueError, match="number 1"):
        group.close()
    assert closed == group.envs


def test_a_wrapper_does_not_inherit_a_method_of_its_environment():
    class Saving(Reporting):
        def state_dict(self):
            return {}

    class SavingWrapper(gymnasium.Wrapper):
        state_dict = Saving.state_dict

    wrapped = gymnasium.wrappers.TimeLimit(Saving(), 5)
    group, _ = group_of(Saving(), wrapped, Reporting(), SavingWrapper(Reporting()))
    assert group.without("state_dict") == [str(wrapped), str(group.envs[2])]


def test_methods_and_attributes_of_each_environment():
    group, _ = group_of(Reporting(), Reporting(as_array=True))
    assert group.call([(), ()], "as_array") == [False, True]
    infos = group.call([(1.0,), (2.0,)], "_info")
    assert infos[0] == {"action": 1.0}
    assert infos[1]["action"].tolist() == [2, 2]
