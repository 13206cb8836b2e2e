"""Warp's walkers, by the ants: independence, frictions, saving and loading, and wrong arguments."""

import gc
import math
import sys
import weakref

import numpy as np
import pytest
import torch

from plasticity.tasks import task_friction
from plasticity.tasks.control.ant.warp import SlipperyAntWarp
from plasticity.tasks.control.slippery import warp_physics
from plasticity.tasks.control.slippery.friction import FrictionSchedule

pytest.importorskip("mujoco_warp", reason="needs plasticity[gpu]")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def actions_of(number, num_envs, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    actions = 2 * torch.rand(number, num_envs, 8, generator=generator) - 1
    return actions.to(device)


def thrown(number, num_envs, seed=0):
    """Return actions back and forth, every four steps or so: the ants jump over 1 m after about 8 steps."""
    generator = torch.Generator().manual_seed(seed)
    phases = torch.randint(0, 4, (num_envs,), generator=generator)
    signs = torch.tensor([-1.0, 1, -1, 1, -1, -1, -1, 1])
    forth = (torch.arange(number)[:, None] + phases) // 4 % 2 * 2 - 1
    strength = 1 - 0.2 * torch.rand(number, num_envs, 8, generator=generator)
    return forth[:, :, None] * signs * strength


def copied(step):
    return [tensor.clone() for tensor in step]


def same(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


# ---- many of them ------------------------------------------------------------------------------------


STREAMS = {"task_seeds": [3, 4, 3, 5, 3, 4], "change_every": 7, "device": "cpu"}
SEEDS = [11, 12, 13, 11, 15, 2**62]


@pytest.fixture(scope="module")
def six():
    return SlipperyAntWarp(6, reset_seeds=SEEDS, **STREAMS)


def history(envs, actions):
    """Return all results of the steps, and the tasks."""
    seen = []
    for action in actions:
        seen.append(
            [*copied(envs.step(action)), envs.tasks.clone(), envs.state_dict()["frictions"]]
        )
    return seen


def test_each_equals_a_single_one(six):
    """Compare bitwise, with different environments beside it, and from a slice of their state."""
    actions = thrown(90, 6)
    first = six.reset().clone()
    all_six = history(six, actions[:50])
    saved = six.state_dict()
    all_six += history(six, actions[50:])
    assert sum(int((step[2] | step[3]).sum()) for step in all_six) > 10  # episodes ended

    part = slice(2, 4)
    seeds, tasks = SEEDS[part], STREAMS["task_seeds"][part]
    alone = SlipperyAntWarp(2, reset_seeds=seeds, **{**STREAMS, "task_seeds": tasks})
    assert torch.equal(alone.reset(), first[part])
    for one, all_of_them in zip(history(alone, actions[:, part]), all_six, strict=True):
        assert same(one, [tensor[part] for tensor in all_of_them])

    alone.load_state_dict({name: tensor[part] for name, tensor in saved.items()})
    again = history(alone, actions[50:, part])
    for one, all_of_them in zip(again, all_six[50:], strict=True):
        assert same(one, [tensor[part] for tensor in all_of_them])
    # Equal seeds give equal starts, in any task.
    assert torch.equal(first[0], first[3])
    assert not torch.equal(first[0], first[1])


def test_resumes_exactly(six):
    actions = thrown(60, 6, seed=1)
    six.reset()
    history(six, actions[:30])
    state = six.state_dict()
    assert all(len(tensor) == 6 for tensor in state.values())
    expected = history(six, actions[30:])
    six.reset()
    six.load_state_dict(state)
    assert all(map(same, history(six, actions[30:]), expected))
    assert torch.equal(state["observations"], expected[0][0]) is False  # the state is a copy


def test_recorded_steps_equal_unrecorded_ones(six):
    plain = SlipperyAntWarp(6, reset_seeds=SEEDS, **STREAMS, record=False)
    actions = thrown(14, 6, seed=2)
    six.reset()
    assert all(map(same, history(six, actions), history(plain, actions)))


def test_the_friction_changes_when_an_episode_ends(six):
    six.reset()
    schedules = [FrictionSchedule(task_seed=seed, change_every=7) for seed in STREAMS["task_seeds"]]
    tasks = [schedule.task_at(0) for schedule in schedules]
    changes = 0
    for number, action in enumerate(thrown(120, 6, seed=3), start=1):
        step = six.step(action)
        for i in torch.nonzero(step.terminated | step.truncated).flatten().tolist():
            changes += tasks[i].index != number // 7
            tasks[i] = schedules[i].task_at(number)
        assert six.tasks.tolist() == [task.index for task in tasks]
        assert six.state_dict()["frictions"].tolist() == pytest.approx(
            [task.friction for task in tasks]
        )
    assert changes > 10
    assert tasks[0].friction == task_friction(3, tasks[0].index)


def test_an_episode_has_at_most_1000_steps(six):
    six.reset()
    state = six.state_dict()
    state["episode_steps"] = torch.tensor([998, 0, 0, 999, 0, 0])
    six.load_state_dict(state)
    still = torch.zeros(6, 8)
    one = copied(six.step(still))
    assert one[3].tolist() == [False, False, False, True, False, False]
    assert not one[2].any()
    assert not torch.equal(one[4][3], one[0][3])
    assert torch.equal(one[4][0], one[0][0])
    assert six.step(still).truncated.tolist() == [True, *[False] * 5]
    assert six.state_dict()["episodes"].tolist() == [1, 0, 0, 1, 0, 0]


def test_a_state_that_is_not_finite_ends_with_its_episode(six):
    """Check that a broken state leaves no trace: the next episode is as after any other end."""
    actions = actions_of(70, 6, seed=4)
    actions[:25] = 0
    six.reset()
    history(six, actions[:25])  # all stand on the floor
    state = six.state_dict()
    high, broken = ({name: t.clone() for name, t in state.items()} for _ in range(2))
    high["qpos"][:3, 2] = 5.0
    broken["qpos"][0, 9] = torch.nan  # a joint: the contacts of the other legs get rows of nan
    broken["qvel"][1, 3] = torch.inf
    broken["qpos"][2, 0] = 1e20
    six.load_state_dict(high)
    expected = history(six, actions[25:])
    six.load_state_dict(broken)
    found = history(six, actions[25:])
    assert found[0][2].tolist()[:3] == [True] * 3
    assert torch.equal(found[0][4][:3], state["observations"][:3])  # the last finite one
    effort = 0.5 * actions[25, :3].square().sum(1)
    assert torch.allclose(found[0][1][:3], -effort)
    assert torch.equal(found[0][0], expected[0][0])
    assert all(map(same, found[1:], expected[1:]))
    assert (six.unstable_episodes - state["unstable_episodes"]).tolist() == [1, 1, 1, 0, 0, 0]


def test_too_small_a_capacity_is_an_error(six):
    six.reset()
    for action in actions_of(20, 6):
        six.step(action)
    six.check()
    small = SlipperyAntWarp(
        6, reset_seeds=SEEDS, friction=1.0, device="cpu", max_contacts=1, record=False
    )
    small.check()
    for action in actions_of(20, 6):
        small.step(action)
    with pytest.raises(
        RuntimeError, match=r"max_contacts = 1 allows 6 ants 6 contacts.* max_conta"
    ):
        small.check()
    small.reset()
    small.check()


@pytest.mark.parametrize(
    ("value", "words", "reward"),
    [
        (math.nan, r"must be 8 finite numbers: \[0\.0, nan,", math.nan),
        (-math.inf, r"must be 8 finite numbers: \[0\.0, -inf,", -math.inf),
        (1e30, r"too large: its cost.*\[0\.0, 1\.0000000150474662e\+30,", -math.inf),
        (-2e15, r"too large: its cost.*\[0\.0, -1999999973982208\.0,", -2e30),  # -0.5 * (2e15)^2
    ],
)
def test_check_reports_actions_that_the_mujoco_ant_refuses(six, value, words, reward):
    """Check that the step itself does not wait for the device, and does not affect the other ants."""
    six.reset()
    state, still = six.state_dict(), torch.zeros(6, 8)
    expected = copied(six.step(still))
    six.check()
    six.load_state_dict(state)
    bad = still.clone()
    bad[4, 1] = value
    found = copied(six.step(bad))
    others = [0, 1, 2, 3, 5]
    assert same([each[others] for each in found], [each[others] for each in expected])
    assert found[1][4].item() == pytest.approx(reward, nan_ok=True)
    six.step(still)  # the error stays recorded
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^Environment 4: The action .*{words}"):
            six.check()
    six.load_state_dict(state)
    six.check()
    six.step(bad)
    six.reset()
    six.check()


def test_the_largest_action_that_the_mujoco_ant_accepts_is_accepted(six):
    six.reset()
    six.step(torch.full((6, 8), 1e14))
    six.check()


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (np.zeros((6, 8)), "must be a torch tensor: ndarray"),
        (torch.zeros(6, 8, dtype=torch.complex64), "real numbers, not of type torch.complex64"),
        (torch.zeros(6, 8, dtype=torch.bool), "real numbers, not of type torch.bool"),
    ],
)
def test_actions_that_are_not_real_numbers_are_refused(six, actions, words):
    with pytest.raises(TypeError, match=words):
        six.step(actions)


def test_closed_ants_are_freed_and_raise_an_error():
    envs = SlipperyAntWarp(2, reset_seeds=[0, 1], friction=1.0, device="cpu")
    gone = weakref.ref(envs._physics)
    observations = envs.reset()
    envs.close()
    envs.close()
    with pytest.raises(RuntimeError, match="were closed: make new ones"):
        envs.reset()
    with pytest.raises(RuntimeError, match="were closed: make new ones"):
        envs.step(torch.zeros(2, 8))
    gc.collect()
    gc.disable()
    try:
        del envs
        assert gone() is None
    finally:
        gc.enable()
    assert torch.isfinite(observations).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1"),
        ({"reset_seeds": [1]}, ValueError, "2 environments need 2 reset_seeds, one for each: 1"),
        ({"reset_seeds": [1, -1]}, ValueError, "An entry of reset_seeds must be at least 0"),
        ({"task_seeds": [1], "change_every": 5}, ValueError, "need 2 task_seeds, one for each: 1"),
        ({"friction": 1.0, "change_every": 5}, ValueError, "give one or the other"),
        ({}, ValueError, "needs task_seed and change_every"),
        ({"reset_seeds": [1, 2**63], "friction": 1.0}, ValueError, r"must be under 2\^63: 9223"),
        (
            {"friction": 0.003},
            ValueError,
            "friction of Warp's ants must be .* at least 0.01: 0.003",
        ),
        (
            {"friction": 1.0, "max_contacts": 26},
            ValueError,
            "at most 25 contacts: max_contacts = 26",
        ),
        ({"friction": 1.0, "device": "meta"}, ValueError, 'device must be "cpu" or a CUDA device'),
    ],
)
def test_bad_arguments_are_errors(arguments, error, message):
    arguments = {"num_envs": 2, "reset_seeds": [1, 2], "device": "cpu"} | arguments
    with pytest.raises(error, match=message):
        SlipperyAntWarp(**arguments)


def test_bad_actions_and_states_are_errors(six):
    with pytest.raises(ValueError, match=r"The actions must have the shape \(6, 8\): \(8,\)"):
        six.step(torch.zeros(8))
    state = six.state_dict()
    with pytest.raises(ValueError, match="other reset_seeds"):
        six.load_state_dict(state | {"reset_seeds": state["reset_seeds"] + 1})
    with pytest.raises(ValueError, match=r"qpos of the state must have the shape \(6, 15\)"):
        six.load_state_dict(state | {"qpos": torch.zeros(5, 15)})
    for change in ({"num_tasks": 1}, {"task_seeds": [3, 4, 3, 5, 3, 5]}, {"change_every": 6}):
        other = SlipperyAntWarp(6, reset_seeds=SEEDS, **{**STREAMS, **change, "record": False})
        for action in torch.zeros(13, 6, 8):
            other.step(action)
        with pytest.raises(ValueError, match=r"other coming frictions.*num_tasks and change_every"):
            six.load_state_dict(other.state_dict())
        assert same(six.state_dict().values(), state.values())  # nothing of it was loaded
    with pytest.raises(ValueError, match="The state must have"):
        six.load_state_dict({"qpos": torch.zeros(6, 15)})


def test_actions_with_gradients_leave_no_graph(six):
    """Check that no autograd graph grows through the steps."""
    six.reset()
    expected = copied(six.step(torch.ones(6, 8) / 2))
    six.reset()
    actions = torch.full((6, 8), 0.5, requires_grad=True)
    found = six.step(2 * actions / 2)
    assert same(found, expected)
    assert not any(tensor.requires_grad for tensor in (*found, six._actions))


def test_torchs_default_dtype_changes_nothing(six):
    actions = thrown(14, 6, seed=5)
    six.reset()
    expected = history(six, actions)
    torch.set_default_dtype(torch.float64)
    try:
        doubled = SlipperyAntWarp(6, reset_seeds=SEEDS, **STREAMS, record=False)
        assert all(map(same, history(doubled, actions), expected))
        assert doubled.action_low.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_another_mujoco_warp_is_an_error(monkeypatch):
    """Replace it by one that no longer calls back where contacts are corrected."""
    monkeypatch.setattr(warp_physics.WarpPhysics, "_align_contacts", lambda *arguments: None)
    with pytest.raises(
        RuntimeError, match=r"calls back .*'contactfilter': 0.* mujoco-warp 4\.0\.0"
    ):
        SlipperyAntWarp(1, reset_seeds=[0], friction=1.0, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_an_error():
    with pytest.raises(
        ValueError, match=r"'cuda' is not available on this host: use device = \"cpu\""
    ):
        SlipperyAntWarp(1, reset_seeds=[0], friction=1.0)


@pytest.mark.parametrize("name", ["mujoco", "warp", "mujoco_warp"])
def test_a_missing_package_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"The Warp ant needs {name}, .* 'plasticity\[gpu\]'"
    ):
        warp_physics.load_modules("ant")


# ---- on a GPU ----------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("other_stream", [False, True])
def test_steps_never_synchronize_with_a_gpu(other_stream):
    """Step and change the friction, on torch's default stream and on another."""
    num = 64
    stream = torch.cuda.Stream() if other_stream else torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        envs = SlipperyAntWarp(num, reset_seeds=range(num), task_seeds=0, change_every=3)
        envs.reset()
        actions = actions_of(20, num, device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            results = [copied(envs.step(action)) for action in actions]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.isfinite(result[0]).all() for result in results)
        assert int(envs.tasks.max()) > 0
        envs.check()


@needs_cuda
def test_a_graph_equals_single_launches():
    """Compare up to a rounding that grows with the steps: constraint rows are summed in any order."""
    num = 64
    settings = {"reset_seeds": range(num), "friction": 1.0, "device": "cuda"}
    recorded, plain = (SlipperyAntWarp(num, record=record, **settings) for record in (True, False))
    for action in actions_of(3, num, device="cuda"):
        for one, other in zip(recorded.step(action), plain.step(action), strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


@needs_cuda
def test_closing_waits_for_running_work():
    """Close with work on a torch stream, for which Warp does not wait when it frees its memory."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        envs = SlipperyAntWarp(64, reset_seeds=range(64), friction=1.0)
        for action in actions_of(50, 64, device="cuda"):
            envs.step(action)
        envs.close()
        assert stream.query()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_need_not_be_the_current_one():
    """Launch a graph on its own device, on a default stream too."""
    first, second = (
        SlipperyAntWarp(8, reset_seeds=range(8), friction=1.0, device=f"cuda:{number}")
        for number in range(2)
    )
    for action in actions_of(3, 8):
        for one, other in zip(first.step(action), second.step(action), strict=True):
            torch.testing.assert_close(one.cpu(), other.cpu(), atol=2e-4, rtol=0)
    assert torch.cuda.current_device() == 0
