"""Views of a rollout's storage, for one agent and for stacked ones, and its copy on the host."""

import pytest
import torch

from plasticity.agents.ppo.rollout import HostCopy, Rollout

STEPS, EACH = 3, 2


class Sizes:
    """Sizes of environments."""

    observation_size, action_size, device = 4, 2, torch.device("cpu")

    def __init__(self, discrete=False):
        self.discrete = discrete


@pytest.mark.parametrize("lead", [(), (5,)])
@pytest.mark.parametrize("discrete", [False, True])
def test_views_share_the_storage(lead, discrete):
    rollout = Rollout(STEPS, EACH, lead, Sizes(discrete))
    count = EACH * (lead[0] if lead else 1)
    given = torch.arange(count * 4.0).view(count, 4)
    for step in range(STEPS + 1):
        rollout.by_step["observations"][step].copy_(rollout.by_agent(given + 100 * step))
    acted_on = rollout.acted_on
    assert acted_on.shape == (*lead, STEPS * EACH, 4)
    assert acted_on.data_ptr() == rollout.observations.data_ptr()
    # row step * envs + environment of each agent
    row = acted_on[..., 2 * EACH + 1, :]
    assert torch.equal(row, rollout.by_agent(given)[..., 1, :] + 200)
    actions = rollout.flat(rollout.actions)
    assert actions.shape == (*lead, STEPS * EACH) + (() if discrete else (2,))
    assert actions.dtype == (torch.int64 if discrete else torch.float32)
    assert rollout.is_dense == bool(lead)


def test_images_are_kept_as_they_are():
    rollout = Rollout(STEPS, EACH, (), Sizes(), torch.uint8)
    assert rollout.observations.dtype == rollout.final_observations.dtype == torch.uint8
    assert rollout.outputs.dtype == torch.float32


def test_the_host_has_a_copy():
    rollout = Rollout(STEPS, EACH, (5,), Sizes())
    rollout.rewards[2, 1, 0] = 0.1
    rollout.terminated[0, 0, 0] = rollout.truncated[4, 2, 1] = True
    rollout.tasks[3, 3, 1] = 8
    copied = HostCopy(rollout)
    copied.send()
    rewards, ended, tasks = copied.read()
    assert rewards[2, 1, 0] == 0.1  # float64
    assert ended.nonzero()[0].tolist() == [0, 4]
    assert tasks[3, 3, 1] == 8
