"""The MuJoCo ant: against Gymnasium's `Ant-v5`, its friction, its schedule, and its continuation."""

import copy
import io
import math
import pickle
import subprocess
import sys
import types
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_checker import data_equivalence as equal
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from plasticity.tasks import SlipperyAntMujocoEnv, task_friction
from plasticity.tasks.control.ant import mujoco as ant_mujoco

ID = "plasticity.tasks:plasticity/SlipperyAntMujoco-v0"
STREAM = {"task_seed": 5, "num_tasks": 4, "change_every": 60}


@pytest.fixture
def make():
    """Makes environments that are closed at the end."""
    pytest.importorskip("mujoco")
    envs = []

    def make(*args, **kwargs):
        envs.append(SlipperyAntMujocoEnv(*args, **kwargs))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


def actions_of(seed, number, scale=1.0):
    return (scale * np.random.default_rng(seed).uniform(-1, 1, (number, 8))).astype(np.float32)


# To and fro, every four steps: it jumps over 1 m after 8 steps or some more.
def thrown(seed, number):
    to_and_fro = np.where(np.arange(number) // 4 % 2, 1, -1)[:, None] * [
        -1,
        1,
        -1,
        1,
        -1,
        -1,
        -1,
        1,
    ]
    return (to_and_fro * (1 - 0.2 * np.abs(actions_of(seed, number)))).astype(np.float32)


def rollout(env, actions):
    """Step, resetting without a seed whenever an episode ends; return all that was seen."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append((observation, reward, terminated, truncated, info))
        if terminated or truncated:
            seen.append(env.reset())
    return seen


# ---- the reference -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_reference():
    """Makes Gymnasium's own."""
    pytest.importorskip("mujoco")
    with pytest.MonkeyPatch.context() as patch:
        try:
            import imageio  # noqa: F401
        except ModuleNotFoundError:  # of what Gymnasium draws with: nothing is drawn here
            patch.setitem(sys.modules, "imageio", types.ModuleType("imageio"))

        def make(**kwargs):
            return gymnasium.make("Ant-v5", **kwargs)

        yield make


@pytest.mark.parametrize(
    ("include", "actions"),
    [
        (False, actions_of(0, 1200)),
        (True, actions_of(1, 600)),
        (False, actions_of(2, 1100, 0.1).astype(np.float64)),
        # Of other types, in the precision that they come in.
        (False, actions_of(4, 400).astype(np.float16)),
        (False, np.sign(actions_of(5, 400)).astype(np.int64)),
        # Beyond the action space: clipped, and paid for as they are.
        (True, actions_of(3, 200, 2.0).astype(np.float64)),
    ],
)
def test_step_by_step_as_gymnasiums_own(make_reference, make, include, actions):
    reference = make_reference(include_cfrc_ext_in_observation=include)
    env = make(include_contact_forces=include)
    assert env.observation_space == reference.observation_space
    assert env.action_space == reference.action_space
    seed, ends, running = 100, set(), False
    for action in actions:
        if not running:
            expected, _ = reference.reset(seed=seed)
            observation, info = env.reset(seed=seed)
            seed = None if seed else 101  # every other episode goes on with the generator
            np.testing.assert_array_equal(observation, expected)
            assert info == {"task": 0, "friction": 1.0}
        expected, expected_reward, *expected_ends, _ = reference.step(action)
        observation, reward, *ended, _ = env.step(action)
        np.testing.assert_array_equal(observation, expected)
        assert (reward, ended) == (expected_reward, expected_ends)
        running = not any(ended)
        ends.add(tuple(ended))
    assert len(ends) > 1  # at least one episode ended
    reference.close()


def test_the_constants_are_the_models(make, make_reference):
    reference = make_reference().unwrapped
    assert (reference.dt, reference.frame_skip) == (ant_mujoco.STEP_SECONDS, ant_mujoco.FRAME_SKIP)
    assert SlipperyAntMujocoEnv.metadata["render_fps"] == 1 / reference.dt
    # Stock: one sliding coefficient everywhere, and contacts of condim 3, which use no other.
    assert (reference.model.geom_friction == [1.0, 0.5, 0.5]).all()
    assert (reference.model.geom_condim == 3).all()
    assert not reference.model.geom_priority.any()  # else a contact would take one side's
    reference.close()


# ---- the friction ------------------------------------------------------------------------------------


def contact_frictions(env):
    """Five numbers of each contact: two of sliding, one of torsion, two of rolling."""
    return env._data.contact.friction.copy()


@given(friction=st.floats(0.02, 2.0), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_the_friction_is_that_of_every_contact(friction, seed):
    pytest.importorskip("mujoco")
    env = SlipperyAntMujocoEnv(friction)
    env.reset(seed=seed)
    found = []
    for action in actions_of(seed, 25, 0.1):
        env.step(action)
        found.append(contact_frictions(env))
    found = np.concatenate(found)
    assert len(found) > 10
    np.testing.assert_array_equal(found, np.broadcast_to([friction] * 2 + [0.5] * 3, found.shape))
    env.close()


def test_the_floor_alone_would_not_do(make):
    """MuJoCo takes the larger of two coefficients."""
    env = make(0.02)
    env.reset(seed=0)
    env._model.geom_friction[1:, 0] = 1.0
    for _ in range(20):
        env.step(np.zeros(8))
    assert len(contact_frictions(env)) > 0
    assert (contact_frictions(env)[:, 0] == 1.0).all()


def distance_slid(env):
    env.reset(seed=0)
    for _ in range(30):  # until it lies
        env.step(np.zeros(8))
    start = env._data.qpos[0]
    env._data.qvel[:] = 0
    env._data.qvel[0] = 2.0
    for _ in range(30):
        env.step(np.zeros(8))
    return env._data.qpos[0] - start


def test_an_ant_slides_farther_on_slippery_ground(make):
    slippery, middle, rough = (distance_slid(make(friction)) for friction in (0.02, 0.2, 2.0))
    # A body at 2 m/s with nothing but sliding: 2 t - mu g t^2 / 2 = 2.78 m in 1.5 s at 0.02,
    # v^2 / (2 mu g) = 1.02 m at 0.2, 0.1 m at 2. The legs give way, and margins are wide.
    assert slippery == pytest.approx(2.78, abs=0.4)
    assert middle == pytest.approx(1.02, abs=0.4)
    assert rough < 0.5
    assert slippery > middle > rough


def test_a_friction_of_zero_is_frictionless_but_for_what_mujoco_adds(make):
    env = make(0.0)
    assert distance_slid(env) == pytest.approx(3.0, abs=0.3)  # 2 m/s for 1.5 s
    assert (contact_frictions(env)[:, 0] <= 1e-5).all()


# ---- episodes ----------------------------------------------------------------------------------------


def test_an_episode_has_no_history(make):
    fresh, used = make(0.3), make(0.3)
    used.reset(seed=5)
    rollout(used, actions_of(1, 300))
    actions = actions_of(0, 60)
    first = [fresh.reset(seed=3), *rollout(fresh, actions)]
    second = [used.reset(seed=3), *rollout(used, actions)]
    assert equal(first, second, exact=True)


def test_time_limit_after_1000_steps_without_a_wrapper(make):
    env = make()
    env.reset(seed=0)
    ends = [env.step(np.zeros(8))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(8))
    env.reset()
    env.step(np.zeros(8))


def test_an_unhealthy_height_ends_the_episode(make):
    env = make()
    env.reset(seed=0)
    heights, ends = [], []
    for action in thrown(0, 100):
        observation, _, terminated, truncated, _ = env.step(action)
        assert not truncated
        heights.append(observation[0])
        ends.append(terminated)
        if terminated:
            break
    assert ends[-1]
    assert ends == [not 0.2 <= height <= 1.0 for height in heights]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(8))


def test_a_step_needs_a_reset(make):
    with pytest.raises(gymnasium.error.ResetNeeded):
        make().step(np.zeros(8, np.float32))


@pytest.mark.parametrize("value", [math.nan, 1e200])
def test_numbers_that_mujoco_lost_end_the_episode_as_a_fall(make, monkeypatch, tmp_path, value):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log into the working folder
    env = make()
    env.reset(seed=0)
    last = env.step(np.zeros(8))[0]
    env._data.qvel[3] = value
    observation, reward, terminated, truncated, _ = env.step(np.full(8, 0.5))
    # nothing of the lost state: what was observed before it, and the cost of the action, 0.5 * 8 * 0.5^2
    assert np.array_equal(observation, last)
    assert (reward, terminated, truncated) == (-1.0, True, False)
    assert env.unstable_episodes == 1
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(8))
    copy = pickle.loads(pickle.dumps(env))
    assert copy.unstable_episodes == 1
    env.reset(seed=0)  # it is as new
    fresh = make()
    fresh.reset(seed=0)
    assert equal(env.step(np.ones(8)), fresh.step(np.ones(8)), exact=True)


def test_contacts_without_room_are_an_error(make):
    env = make()
    env.reset(seed=0)
    env._mujoco = types.SimpleNamespace(
        mjtWarning=env._mujoco.mjtWarning,
        mj_step=lambda *_: None,
        mj_rnePostConstraint=lambda *_: None,
    )
    numbers = np.zeros(7, int)
    numbers[int(env._mujoco.mjtWarning.mjWARN_CONTACTFULL)] = 1
    env._warnings = types.SimpleNamespace(number=numbers)
    with pytest.raises(RuntimeError, match="no room for all contacts"):
        env.step(np.zeros(8))


# ---- the schedule ------------------------------------------------------------------------------------


def test_the_friction_changes_at_the_first_episode_end_after_the_interval(make):
    env = make(**STREAM)
    _, info = env.reset(seed=0)
    task, begun, seen = 0, 0, set()
    for steps, action in enumerate(thrown(0, 300), start=1):
        assert info == {"task": task, "friction": task_friction(5, task)}
        *_, terminated, truncated, info = env.step(action)
        assert info["task"] == task
        if terminated or truncated:
            seen.add((task, begun))
            begun = steps
            task = min(steps // 60, 3)
            _, info = env.reset()
    # Some task met several episodes, and one that began before its interval's end went on past it.
    assert len(seen) > 4
    assert task == 3


def test_a_seed_does_not_begin_the_schedule_again(make):
    env = make(task_seed=0, change_every=10)
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.zeros(8))
    assert env.reset(seed=0)[1]["task"] == 1


def test_the_scheduled_friction_is_the_one_in_mujoco(make):
    scheduled = make(task_seed=3, change_every=5)
    scheduled.reset(seed=0)
    for _ in range(5):
        scheduled.step(np.zeros(8))
    scheduled.reset(seed=9)
    fixed = make(task_friction(3, 1))
    fixed.reset(seed=9)
    for action in actions_of(0, 40, 0.3):
        ours, expected = scheduled.step(action), fixed.step(action)
        assert equal(ours[:-1], expected[:-1], exact=True)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="one or the other"):
        SlipperyAntMujocoEnv(0.5, task_seed=0, change_every=10)
    with pytest.raises(ValueError, match="task_seed and change_every"):
        SlipperyAntMujocoEnv(num_tasks=3)
    with pytest.raises(ValueError, match=r"rgb_array.*ansi"):
        SlipperyAntMujocoEnv(render_mode="ansi")
    with pytest.raises(TypeError, match="True or False: 1"):
        SlipperyAntMujocoEnv(include_contact_forces=1)


def test_without_mujoco_the_error_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'mujoco'", name=name)

    monkeypatch.setattr(ant_mujoco, "importlib", types.SimpleNamespace(import_module=missing))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'plasticity\[mujoco\]'"):
        SlipperyAntMujocoEnv()


def test_it_needs_no_pybullet_and_nothing_of_gymnasium_that_draws():
    """As on Python 3.12 and later, for which PyBullet has no wheels."""
    pytest.importorskip("mujoco")
    program = """
import sys
for module in ("pybullet", "pybullet_data", "imageio"):
    sys.modules[module] = None
import gymnasium, numpy
from plasticity.tasks import SlipperyAntMujocoEnv, slippery_ant_vector
assert "mujoco" not in sys.modules
env = gymnasium.make("plasticity.tasks:plasticity/SlipperyAntMujoco-v0")
env.reset(seed=0)
env.step(numpy.zeros(8, numpy.float32))
envs = slippery_ant_vector(2, engine="mujoco", friction=0.1)
envs.reset(seed=0)
envs.step(numpy.zeros((2, 8)))
envs.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- checkers and rendering --------------------------------------------------------------------------


@pytest.fixture
def can_draw():
    pytest.importorskip("mujoco")
    try:
        SlipperyAntMujocoEnv(render_mode="rgb_array").close()
    except RuntimeError as error:
        pytest.skip(f"no OpenGL here: {error}")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"task_seed": 1, "num_tasks": 5, "change_every": 1000},
        {"include_contact_forces": True},
    ],
)
@pytest.mark.usefixtures("can_draw")
def test_the_checkers_have_nothing_to_say(monkeypatch, arguments):
    monkeypatch.delenv("DISPLAY", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # As of `Ant-v5`, its velocities have no bounds: that is said, and nothing else.
        warnings.filterwarnings("ignore", ".*observation space m(ax|in)imum value is")
        for env in (gymnasium.make(ID, **arguments), gymnasium.make(ID, **arguments).unwrapped):
            check_env_for_sb3(env)
            check_env(env.unwrapped)
            env.close()


def test_gymnasium_knows_it(make):
    env = gymnasium.make(ID, friction=0.1)
    assert env.spec.max_episode_steps == 1000
    env.reset(seed=4)
    direct = make(0.1)
    direct.reset(seed=4)
    for action in actions_of(0, 10):
        assert equal(env.step(action), direct.step(action), exact=True)
    env.close()


@pytest.mark.usefixtures("can_draw")
def test_drawing_changes_nothing(make):
    drawn, plain = make(render_mode="rgb_array"), make()
    drawn.reset(seed=0), plain.reset(seed=0)
    for step, action in enumerate(actions_of(0, 12)):
        assert equal(drawn.step(action), plain.step(action), exact=True)
        if step in (4, 8):
            frame = drawn.render()
            np.testing.assert_array_equal(frame, drawn.render())
            assert (frame.shape, frame.dtype) == ((240, 320, 3), np.uint8)
            assert frame.std() > 10
    assert plain.render() is None


def test_the_window_is_followed_in_real_time(make, monkeypatch):
    env = make()
    env.reset(seed=0)
    env.render_mode = "human"  # a window cannot be opened here: what is asked of it can be seen
    shown, slept = [], []
    env._pictures = types.SimpleNamespace(show=shown.append, close=lambda: None)
    monkeypatch.setattr("plasticity.tasks.control.ant.mujoco.time.sleep", slept.append)
    monkeypatch.setattr("plasticity.tasks.control.ant.mujoco.time.monotonic", lambda: 50.0)
    for _ in range(3):
        env.step(np.zeros(8))
    assert len(shown) == 3
    assert slept == pytest.approx([0.0, 0.05, 0.05])
    assert env.render() is None


def test_a_closed_environment_says_so(make):
    env = make()
    env.reset(seed=0)
    state = env.state_dict()
    env.close()
    env.close()
    for use in (
        lambda: env.step(np.zeros(8)),
        env.reset,
        env.render,
        lambda: env.load_state_dict(state),
    ):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make a new one"):
            use()


# ---- continuing --------------------------------------------------------------------------------------


def continued(env, actions):
    return [*rollout(env, actions), env.state_dict()]


@pytest.mark.parametrize("saved_after", [0, 1, 59, 130, 199])
def test_a_continued_environment_equals_one_that_never_stopped(make, saved_after):
    """Across friction changes, in the middle of an episode and at its end."""
    actions = thrown(8, 300)
    env = make(**STREAM)
    env.reset(seed=2)
    rollout(env, actions[:saved_after])
    saved = copy.deepcopy(env.state_dict())
    expected = continued(env, actions[saved_after:])
    assert expected[-1]["task"] == 3
    other = make(**STREAM)
    other.reset(seed=77)
    rollout(other, actions_of(1, 90))
    other.load_state_dict(saved)
    assert equal(other.state_dict(), saved, exact=True)
    assert equal(continued(other, actions[saved_after:]), expected, exact=True)


def test_every_step_can_be_continued(make):
    """While it stands, slides and falls: warm starts, contacts and the torso's place are all in the state."""
    env, other = make(0.1), make(0.1)
    env.reset(seed=1)
    for action in thrown(3, 60):
        other.load_state_dict(env.state_dict())
        *seen, ended, _, _ = env.step(action)
        *expected, _, _, _ = other.step(action)
        assert equal(seen, expected, exact=True)
        if ended:
            env.reset()


def test_continuing_in_a_fresh_process(make, tmp_path):
    actions = thrown(8, 120)
    env = make(**STREAM)
    env.reset(seed=2)
    rollout(env, actions[:50])
    (tmp_path / "state").write_bytes(pickle.dumps(env.state_dict()))
    (tmp_path / "actions").write_bytes(pickle.dumps(actions[50:]))
    program = f"""
import pathlib, pickle, sys
from plasticity.tasks import SlipperyAntMujocoEnv
folder = pathlib.Path(sys.argv[1])
env = SlipperyAntMujocoEnv(**{STREAM})
env.load_state_dict(pickle.loads((folder / "state").read_bytes()))
seen = []
for action in pickle.loads((folder / "actions").read_bytes()):
    seen.append(env.step(action))
    if seen[-1][2] or seen[-1][3]:
        seen.append(env.reset())
(folder / "seen").write_bytes(pickle.dumps([*seen, env.state_dict()]))
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    seen = pickle.loads((tmp_path / "seen").read_bytes())
    assert seen[-1]["task"] > 0
    assert equal(seen, continued(env, actions[50:]), exact=True)


def test_a_state_before_the_first_reset_leaves_nothing_of_the_episode(make):
    env, other = make(**STREAM), make(**STREAM)
    env.np_random = np.random.Generator(np.random.PCG64(5))
    fresh = env.state_dict()
    other.reset(seed=0)
    other.step(np.zeros(8))
    other.load_state_dict(fresh)
    assert equal(other.state_dict(), fresh, exact=True)
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step(np.zeros(8))
    assert equal(other.reset(), env.reset(), exact=True)


def test_a_state_after_the_end_still_needs_a_reset(make):
    env, other = make(), make()
    env.reset(seed=0)
    actions = iter(thrown(0, 100))
    while not env.step(next(actions))[2]:
        pass
    other.load_state_dict(env.state_dict())
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step(np.zeros(8))
    assert equal(other.reset(), env.reset(), exact=True)


def test_a_state_is_plain_and_a_copy(make):
    env = make(**STREAM)
    env.reset(seed=0)
    env.step(np.ones(8))

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for entry in value.values() for leaf in leaves(entry)]
        return [value]

    state = env.state_dict()
    assert {type(leaf) for leaf in leaves(state)} == {int, bool, float, str, np.ndarray}
    kept = copy.deepcopy(state)
    env.step(np.zeros(8))
    assert equal(state, kept, exact=True)


def test_states_of_others_are_refused(make):
    env = make(**STREAM)
    env.reset(seed=0)
    state = env.state_dict()
    with pytest.raises(ValueError, match=r"task 0 with friction .* the arguments of the one"):
        make(0.8).load_state_dict(state)
    with pytest.raises(ValueError, match=r"shape \(3,\), where MuJoCo .* the version"):
        env.load_state_dict({**state, "physics": np.zeros(3)})


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda env: pickle.load(io.BytesIO(pickle.dumps(env)))]
)
def test_a_copy_goes_its_own_way(make, copied):
    env = make(**STREAM, include_contact_forces=True)
    env.reset(seed=0)
    actions = actions_of(0, 60)
    rollout(env, actions[:30])
    twin = copied(env)
    seen = rollout(twin, actions[30:])
    assert equal(seen, rollout(env, actions[30:]), exact=True)
    twin.close()
    env.reset()


# ---- Stable-Baselines3 -------------------------------------------------------------------------------


def test_the_callback_of_stable_baselines3_sees_the_boundaries():
    pytest.importorskip("mujoco")
    from stable_baselines3 import PPO

    from plasticity.sb3 import PlasticityCallback, policy_kwargs

    # episodes short enough that a change comes whatever the policy does
    env = gymnasium.make(ID, task_seed=1, change_every=128, max_episode_steps=50)
    kwargs = policy_kwargs(PPO, regularizer="syre", strength=1e-3, sigma=0.3, net_arch=[8])
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, policy_kwargs=kwargs)
    callback = PlasticityCallback(every=512, info_keys=["friction"])
    model.learn(640, callback=callback)
    boundaries = [row for row in callback.rows if row["boundary"]]
    assert boundaries
    for row in boundaries:
        assert row["friction"] == task_friction(1, row["task"])
    env.close()
