"""Warp humanoids: parity with `SlipperyHumanoidEnv`, starts, independence, and states that are not finite."""

import numpy as np
import pytest
import scipy.stats
import torch

from plasticity.tasks import SlipperyHumanoidEnv
from plasticity.tasks.control.humanoid.warp import SlipperyHumanoidWarp

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("mujoco_warp", reason="needs plasticity[gpu]")

NUM = 600
"""Environments of the tests of single steps."""


def in_float32(array):
    return np.asarray(array, np.float32).astype(np.float64)


@pytest.fixture(scope="module")
def exact():
    """Return MuJoCo's humanoid in float64, whose contact forces Newton's method solves to the last digits."""
    env = SlipperyHumanoidEnv()
    env._model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    env._model.opt.tolerance, env._model.opt.iterations = 1e-14, 200
    yield env
    env.close()


@pytest.fixture(scope="module")
def many():
    return SlipperyHumanoidWarp(
        NUM, reset_seeds=range(NUM), friction=1.0, device="cpu", record=False
    )


def put(env, positions, velocities, friction):
    """Put the humanoid of MuJoCo into a state, as a reset does."""
    env._model.geom_friction[:, 0] = friction
    env._mujoco.mj_resetData(env._model, env._data)
    env._positions[:], env._velocities[:] = positions, velocities
    env._mujoco.mj_forward(env._model, env._data)


@pytest.fixture(scope="module")
def visited(exact):
    """Return states along random rollouts that go on after the fall, frictions, centers, and actions."""
    rng = np.random.default_rng(1)
    rows = []
    while len(rows) < NUM:
        friction = np.float32(0.02 * 100 ** rng.random())
        exact.reset(seed=int(rng.integers(2**31)))
        exact._model.geom_friction[:, 0] = friction
        for _ in range(rng.integers(20, 160)):
            action = in_float32(rng.uniform(-0.4, 0.4, 17))
            if rng.random() < 0.1:
                data = exact._data
                arrays = data.qpos, data.qvel, data.qacc_warmstart
                rows.append([*map(in_float32, arrays), friction, action])
            exact._move(action)
    columns = [np.stack(column) for column in zip(*rows[:NUM], strict=True)]
    centers = []
    for positions, velocities, friction in zip(columns[0], columns[1], columns[3], strict=True):
        put(exact, positions, velocities, friction)
        centers.append(in_float32(exact._position()))
    return (*columns, np.array(centers))


@pytest.fixture(scope="module")
def stepped(many, visited):
    """Return Warp's step from each state."""
    positions, velocities, warmstart, frictions, actions, centers = visited
    state = {
        "qpos": positions,
        "qvel": velocities,
        "qacc_warmstart": warmstart,
        "frictions": frictions,
        "center_x": centers,
    }
    many.reset()
    many.load_state_dict(
        many.state_dict() | {name: torch.from_numpy(a).float() for name, a in state.items()}
    )
    step = many.step(torch.from_numpy(actions))
    many.check()
    return [tensor.clone().double().numpy() for tensor in step]


def steps_of(env, visited, chosen):
    """Yield the step of the humanoid in MuJoCo from each chosen state."""
    positions, velocities, warmstart, frictions, actions, centers = visited
    for i in chosen:
        put(env, positions[i], velocities[i], frictions[i])
        env._data.qacc_warmstart[:], env._x = warmstart[i], centers[i]
        yield i, *env._move(actions[i])


PARTS = {
    "positions": (slice(0, 22), 1e-5),
    "velocities": (slice(22, 45), 5e-4),
    "inertias": (slice(45, 175), 1e-5),
    "velocities of parts": (slice(175, 253), 1e-3),
    "torques of motors": (slice(253, 270), 2e-5),
    "contact forces": (slice(270, 348), 5.0),
}
"""Entries of an observation, and how far float32 may be from float64: in m and quaternions, m/s and rad/s,
kg m², m/s, N m (of up to 120), N and N m (of up to 4200)."""

TOLERANCES = np.concatenate(
    [np.full(part.stop - part.start, tolerance) for part, tolerance in PARTS.values()]
)
REWARD_TOLERANCE = 1e-3


def neighbour(array, rng):
    """Move each float32 number to the next one, up or down at random."""
    return array + rng.choice([-1, 1], array.shape) * np.spacing(array.astype(np.float32))


def differences_of_neighbours(env, visited, i):
    """Return how far MuJoCo's own step moves with the last digit of a float32 state: the largest of 8."""
    positions, velocities, *others = visited
    rng, found = np.random.default_rng(0), []
    ((_, observation, reward, _),) = steps_of(env, visited, [i])
    for _ in range(8):
        moved = [neighbour(positions, rng), neighbour(velocities, rng), *others]
        ((_, other, other_reward, _),) = steps_of(env, moved, [i])
        found.append([*np.abs(other - observation), abs(other_reward - reward)])
    return np.max(found, axis=0)


def test_a_step_matches_mujoco(exact, visited, stepped):
    """Compare along rollouts, on floors of all frictions, with bodies that stand, fall and lie."""
    _, rewards, terminated, truncated, observations = stepped
    assert not truncated.any()
    tolerances = np.append(TOLERANCES, REWARD_TOLERANCE)
    on_floor = on_itself = rounded = 0
    for i, observation, reward, fell in steps_of(exact, visited, range(NUM)):
        parts = exact._data.contact.geom
        on_floor += (parts == 0).any()
        on_itself += (parts > 0).all(axis=-1).any()
        errors = np.abs([*(observations[i] - observation), rewards[i] - reward])
        if (errors > tolerances).any():
            # A contact begins at once: whether within a step is a matter of the last digit.
            rounded += 1
            errors -= 2 * differences_of_neighbours(exact, visited, i)
        assert (errors <= tolerances).all(), i
        at_the_limit = np.abs(observation[0] - [1.0, 2.0]).min() < 1e-5
        assert terminated[i] == fell or at_the_limit
    assert rounded <= NUM / 200
    # Otherwise the difficult cases did not occur.
    assert min(on_floor, on_itself) > NUM / 4
    assert NUM / 10 < NUM - terminated.sum() < NUM / 2


def test_a_step_on_rough_floors_matches_the_environment_on_a_cpu(visited, stepped):
    """Compare with the solver of `Humanoid-v5`, which converges there."""
    env = SlipperyHumanoidEnv()
    env.reset(seed=0)
    rough = np.nonzero(visited[3] >= 1)[0]
    for i, observation, reward, _ in steps_of(env, visited, rough):
        assert (np.abs(stepped[4][i] - observation) <= TOLERANCES).all(), i
        assert stepped[1][i] == pytest.approx(reward, abs=REWARD_TOLERANCE)
    env.close()
    assert len(rough) > 30


def test_on_slippery_floors_the_sweeps_of_the_cpu_approach_the_step(visited, stepped):
    """Check the docstring: 50 sweeps end too early there, and many come closer to Warp's step."""
    slippery = np.nonzero(visited[3] < 0.05)[0][:40]
    errors = []
    for sweeps in (50, 5000):
        env = SlipperyHumanoidEnv()
        env._model.opt.iterations, env._model.opt.tolerance = sweeps, 0
        env.reset(seed=0)
        errors.append(
            [
                np.abs(stepped[4][i, 22:45] - observation[22:45]).max()
                for i, observation, *_ in steps_of(env, visited, slippery)
            ]
        )
        env.close()
    few, many = np.quantile(errors, 0.9, axis=1)
    assert few > 5e-3
    assert many < few / 20


def test_a_start_matches_humanoid_v5(exact, many):
    """Compare the noise, from another generator, and what is observed of it."""
    observations = many.reset().double().numpy()
    assert observations.shape == (NUM, exact.observation_space.shape[0])
    state = {name: tensor.double().numpy() for name, tensor in many.state_dict().items()}
    noise = (state["qpos"] - exact._start_positions) / 0.01
    samples = np.concatenate([noise, state["qvel"] / 0.01], axis=1)
    for column in samples.T:
        assert scipy.stats.kstest(column, "uniform", (-1, 2)).pvalue > 1e-4
    assert np.abs(np.corrcoef(samples.T) - np.eye(47)).max() < 5 / np.sqrt(NUM)
    for i in range(20):
        put(exact, state["qpos"][i], state["qvel"][i], 1.0)
        np.testing.assert_allclose(observations[i], exact._observe(), atol=1e-5, rtol=0)
        assert state["center_x"][i] == pytest.approx(exact._position(), abs=1e-7)
    assert not state["qacc_warmstart"].any()


STREAMS = {"task_seeds": 3, "change_every": 7, "device": "cpu"}


@pytest.fixture(scope="module")
def three():
    return SlipperyHumanoidWarp(3, reset_seeds=[11, 12, 13], **STREAMS)


def history(envs, actions):
    """Return all results of the steps, and the tasks."""
    return [[*(tensor.clone() for tensor in envs.step(a)), envs.tasks.clone()] for a in actions]


def same(some, others):
    return all(
        torch.equal(one, other)
        for step, another in zip(some, others, strict=True)
        for one, other in zip(step, another, strict=True)
    )


def test_one_continues_exactly_alone_and_beside_others(three):
    """Compare bitwise through ends of episodes, from a slice of the state of all."""
    generator = torch.Generator().manual_seed(0)
    actions = 0.8 * torch.rand(70, 3, 17, generator=generator) - 0.4
    first = three.reset().clone()
    history(three, actions[:10])
    saved = three.state_dict()
    rest = history(three, actions[10:])
    assert sum(int((step[2] | step[3]).sum()) for step in rest) > 3
    assert int(three.tasks.max()) > 2

    alone = SlipperyHumanoidWarp(1, reset_seeds=[12], **STREAMS)
    assert torch.equal(alone.reset(), first[1:2])
    alone.load_state_dict({name: tensor[1:2] for name, tensor in saved.items()})
    again = history(alone, actions[10:, 1:2])
    assert same(again, [[tensor[1:2] for tensor in step] for step in rest])


def test_a_state_that_is_not_finite_ends_with_its_episode(three):
    three.reset()
    actions = torch.full((2, 3, 17), 0.2)
    whole, broken = three.state_dict(), three.state_dict()
    whole["qpos"][:2, 2] = 5.0
    broken["qpos"][0, 9] = torch.nan
    broken["qvel"][1, 3] = torch.inf
    three.load_state_dict(whole)
    expected = history(three, actions)
    three.load_state_dict(broken)
    found = history(three, actions)
    # Nothing of the bad state: the previous observation, and the cost of the action, 0.1 * 17 * 0.2².
    assert torch.equal(found[0][4][:2], whole["observations"][:2])
    assert found[0][1][:2].tolist() == pytest.approx([-0.068] * 2)
    assert found[0][2].tolist() == [True, True, False]
    assert three.unstable_episodes.tolist() == [1, 1, 0]
    assert torch.equal(found[0][0], expected[0][0])
    assert same(found[1:], expected[1:])


def test_a_contact_costs_at_most_10(exact, three):
    """Drop one at 20 m/s, which costs much more without the limit, against the same in MuJoCo."""
    three.reset()
    state = three.state_dict()
    state["qvel"][0, 2] = -20.0
    three.load_state_dict(state)
    step = three.step(torch.zeros(3, 17))
    put(exact, state["qpos"][0].double(), state["qvel"][0].double(), state["frictions"][0].item())
    exact._x = state["center_x"][0].item()
    _, reward, _ = exact._move(np.zeros(17))
    assert 5e-7 * np.square(exact._contact_forces).sum() > 20
    assert step.rewards[0].item() == pytest.approx(reward, abs=0.01)


def test_too_small_a_capacity_is_an_error():
    small = SlipperyHumanoidWarp(
        2,
        reset_seeds=[0, 1],
        friction=1.0,
        device="cpu",
        max_contacts=1,
        refine=False,
        record=False,
    )
    small.check()
    state = small.state_dict()
    state["qpos"][:, 2] = 1.2  # both feet in the floor
    small.load_state_dict(state)
    small.step(torch.zeros(2, 17))
    with pytest.raises(
        RuntimeError, match=r"max_contacts = 1 allows 2 humanoids 2 contacts.* = 190, the most"
    ):
        small.check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"friction": 0.003}, "friction of Warp's humanoids must be .* at least 0.01: 0.003"),
        ({"friction": 1.0, "max_contacts": 191}, "One humanoid has at most 190 contacts"),
    ],
)
def test_bad_arguments_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        SlipperyHumanoidWarp(1, reset_seeds=[0], device="cpu", **arguments)


def test_actions_have_the_limits_of_the_environment_on_a_cpu(exact, three):
    assert three.action_size == exact.num_joints
    for ours, theirs in (
        (three.action_low, exact.action_space.low),
        (three.action_high, exact.action_space.high),
    ):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match=r"must have the shape \(3, 17\): \(3, 8\)"):
        three.step(torch.zeros(3, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_steps_on_a_gpu_are_those_on_a_cpu():
    """Compare a few steps; on a GPU rows of constraints are summed in any order."""
    envs = [
        SlipperyHumanoidWarp(64, reset_seeds=range(64), friction=1.0, device=device)
        for device in ("cpu", "cuda")
    ]
    for action in 0.8 * torch.rand(3, 64, 17) - 0.4:
        ours, theirs = (each.step(action).observations[:, :45].cpu() for each in envs)
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
