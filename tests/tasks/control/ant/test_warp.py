"""Warp ants: parity with Gymnasium's `Ant-v5`."""

import sys
import types

import numpy as np
import pytest
import scipy.stats
import torch

from plasticity.tasks.control.ant.warp import SlipperyAntWarp

pytest.importorskip("mujoco_warp", reason="needs plasticity[gpu]")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.fixture(scope="module")
def reference():
    """Make Gymnasium's own environment, without its wrappers."""
    import gymnasium

    with pytest.MonkeyPatch.context() as patch:
        try:
            import imageio  # noqa: F401
        except ModuleNotFoundError:  # Gymnasium imports it for rendering, which is not needed here
            patch.setitem(sys.modules, "imageio", types.ModuleType("imageio"))
        env = gymnasium.make("Ant-v5").unwrapped
        yield env
        env.close()


def in_float32(array):
    return np.asarray(array, np.float32).astype(np.float64)


def restart(env, state):
    qpos, qvel, warmstart, friction = state
    env.model.geom_friction[:, 0] = friction
    env.set_state(qpos, qvel)
    env.data.qacc_warmstart[:] = warmstart


def visited_states(env, num_states, seed):
    """Return states visited under random actions, on floors of all frictions, and the next actions."""
    rng = np.random.default_rng(seed)
    states, actions = [], []
    while len(states) < num_states:
        friction = np.float32(0.02 * 100 ** rng.random())
        env.reset(seed=int(rng.integers(2**31)))
        env.model.geom_friction[:, 0] = friction
        for _ in range(60):
            action = in_float32(rng.uniform(-1, 1, 8))
            if rng.random() < 0.5:
                data = env.data
                arrays = (data.qpos, data.qvel, data.qacc_warmstart)
                states.append((*map(in_float32, arrays), friction))
                actions.append(action)
            if env.step(action)[2]:
                break
    return states[:num_states], np.stack(actions[:num_states])


def placed(envs, states):
    """Put each environment into a state."""
    qpos, qvel, warmstart, frictions = (
        torch.from_numpy(np.stack(column)).float() for column in zip(*states, strict=True)
    )
    changed = {
        "qpos": qpos,
        "qvel": qvel,
        "qacc_warmstart": warmstart,
        "torso_x": qpos[:, 0],
        "frictions": frictions,
    }
    envs.load_state_dict(envs.state_dict() | changed)


def require_parity(envs, env, states, actions):
    """Assert that a step equals MuJoCo's, up to a few float32 roundings, from every state."""
    placed(envs, states)
    result = [
        t.cpu().double().numpy() for t in envs.step(torch.from_numpy(actions).to(envs.device))
    ]
    _, rewards, terminated, truncated, observations = result
    assert not truncated.any()
    touched = 0
    for i, (state, action) in enumerate(zip(states, actions, strict=True)):
        restart(env, state)
        observation, reward, fell, _, _ = env.step(action)
        touched += np.abs(observation[27:]).max() > 0
        np.testing.assert_allclose(observations[i, :13], observation[:13], atol=3e-6, rtol=0)
        np.testing.assert_allclose(observations[i, 13:27], observation[13:27], atol=3e-4, rtol=0)
        np.testing.assert_allclose(observations[i, 27:], observation[27:], atol=0.05, rtol=0)
        np.testing.assert_allclose(rewards[i], reward, atol=2e-4, rtol=0)
        at_the_limit = np.abs(observation[0] - [0.2, 1.0]).min() < 3e-6
        assert terminated[i] == fell or at_the_limit
    # Otherwise the difficult cases did not occur.
    assert touched > len(states) / 3
    assert 0 < terminated.sum() < len(states)


def test_a_step_matches_mujoco(reference):
    num = 1000
    envs = SlipperyAntWarp(
        num,
        reset_seeds=range(num),
        friction=1.0,
        include_contact_forces=True,
        device="cpu",
        record=False,
    )
    require_parity(envs, reference, *visited_states(reference, num, seed=1))
    envs.check()


def test_a_reset_matches_ant_v5(reference):
    """Compare shapes and noise, from another generator: uniform positions, normal velocities."""
    num = 1000
    envs = SlipperyAntWarp(
        num,
        reset_seeds=range(num),
        friction=1.0,
        include_contact_forces=True,
        device="cpu",
        record=False,
    )
    observations = envs.reset().double().numpy()
    assert observations.shape == (num, reference.observation_space.shape[0])
    state = envs.state_dict()
    noise = (state["qpos"].double().numpy() - reference.init_qpos) / 0.1
    velocities = state["qvel"].double().numpy() / 0.1
    for column in noise.T:
        assert scipy.stats.kstest(column, "uniform", (-1, 2)).pvalue > 1e-4
    for column in velocities.T:
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-4
    correlations = np.corrcoef(np.concatenate([noise, velocities], axis=1).T)
    assert np.abs(correlations - np.eye(29)).max() < 5 / np.sqrt(num)
    np.testing.assert_array_equal(observations[:, :13], state["qpos"][:, 2:])
    np.testing.assert_array_equal(observations[:, 13:27], state["qvel"])
    assert not observations[:, 27:].any()  # as in Gymnasium: forces are computed in a step
    assert not reference.reset(seed=0)[0][27:].any()
    assert not state["qacc_warmstart"].any()


def test_the_least_friction_matches_mujoco(reference):
    """Check that steps match at the least friction, and do not below it."""
    num = 200
    envs = SlipperyAntWarp(
        num,
        reset_seeds=range(num),
        friction=0.01,
        include_contact_forces=True,
        device="cpu",
        record=False,
    )
    states, actions = visited_states(reference, num, seed=2)
    states = [(*state[:3], np.float32(0.01)) for state in states]
    require_parity(envs, reference, states, actions)


@needs_cuda
def test_a_step_on_a_gpu_matches_mujoco(reference):
    num = 1500
    envs = SlipperyAntWarp(
        num, reset_seeds=range(num), friction=1.0, include_contact_forces=True, device="cuda"
    )
    require_parity(envs, reference, *visited_states(reference, num, seed=1))
    envs.check()
