"""Videos of a run: the policy and the friction used, the files written, and errors."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from PIL import Image

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.sb3 import SACConfig
from plasticity.mitigations import Syre
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import ControlRunConfig, ControlTracking
from plasticity.scripts.main import main
from plasticity.scripts.video import command
from plasticity.scripts.video.command import (
    TrainedPolicy,
    VideoConfig,
    play,
    video,
)
from plasticity.seeds import child_seed
from plasticity.tasks import (
    ENGINES,
    SlipperyAntBulletEnv,
    SlipperyAntMujocoEnv,
    task_friction,
)
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.control.ant.views import VIEWS, bullet_speed, mujoco_speed
from plasticity.tasks.control.base import View

ENV = SimpleNamespace(
    observation_space=Box(-5, 5, (28,), np.float32), action_space=Box(-1, 1, (8,), np.float32)
)


def make_settings(**agent):
    return ControlRunConfig(
        benchmark="slippery-ant",
        method=(Syre(),),
        seed=3,
        stream=SlipperyAntConfig(engine="bullet", num_steps=4096, change_every=1024),
        tracking=ControlTracking(measure_every=2048),
        agent=PPOConfig(hidden=(6, 5), **agent),
    )


def make_state(settings, **changes):
    policy = ActorCritic(28, 8, settings.agent, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        policy.actor.head.bias.add_(torch.linspace(-2, 2, 8))  # some actions are out of bounds
        policy.log_std.fill_(-1.0)
    return {
        "policy": policy.state_dict(),
        "num_steps": 2048,
        "observation_statistics": None,
        **changes,
    }


def write_run(path, settings=None, state=None, task=1):
    settings = make_settings() if settings is None else settings
    state = make_state(settings) if state is None else state
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({**settings.to_json(), "git_commit": "abc"}))
    torch.save({"experiment": {"agent": state, "task": task}}, path / "checkpoint.pt")
    return path


# ---- the policy --------------------------------------------------------------


def layer(policy, name, inputs):
    weight, bias = (policy[f"actor.{name}.{part}"].double().numpy() for part in ("weight", "bias"))
    return weight @ inputs + bias


def test_the_mean_action_computed_by_hand():
    settings = make_settings()
    state = make_state(settings)
    act = TrainedPolicy(state, settings, ENV, seed=0, deterministic=True)
    observation = np.random.default_rng(0).normal(size=28).astype(np.float32)
    hidden = np.maximum(layer(state["policy"], "fc1", observation), 0)
    hidden = np.maximum(layer(state["policy"], "fc2", hidden), 0)
    expected = layer(state["policy"], "head", hidden)
    assert np.abs(expected).max() > 1  # clipping has an effect
    np.testing.assert_allclose(act(observation), np.clip(expected, -1, 1), atol=1e-6)


def test_sampled_actions_spread_around_the_mean_by_log_std():
    settings = make_settings()
    state = make_state(settings)
    observation = np.zeros(28, np.float32)
    mean = TrainedPolicy(state, settings, ENV, seed=0, deterministic=True)(observation)
    act = TrainedPolicy(state, settings, ENV, seed=0, deterministic=False)
    drawn = np.array([act(observation) for _ in range(4000)])
    inside = np.abs(mean) < 0.35  # at least 1.7 standard deviations from the bounds
    assert inside.any()
    # Of 4000 draws, the mean's standard error is 0.37 / sqrt(4000) = 0.006.
    np.testing.assert_allclose(drawn.mean(axis=0)[inside], mean[inside], atol=0.04)
    np.testing.assert_allclose(drawn.std(axis=0)[inside], np.exp(-1), atol=0.04)
    assert np.abs(drawn).max() == 1


def test_actions_are_sampled_by_the_seed():
    settings = make_settings()
    state = make_state(settings)
    observation = np.zeros(28, np.float32)
    first, again, other = (
        TrainedPolicy(state, settings, ENV, seed=seed, deterministic=False)(observation)
        for seed in (5, 5, 6)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_observations_are_normalised_as_in_training():
    settings = make_settings(normalize_observations=True)
    mean = torch.linspace(-1, 1, 28, dtype=torch.float64)
    statistics = {"mean": mean, "variance": torch.full((28,), 4.0).double(), "count": 9.0}
    state = make_state(settings, observation_statistics=statistics)
    act = TrainedPolicy(state, settings, ENV, seed=0, deterministic=True)
    plain = TrainedPolicy(state, make_settings(), ENV, seed=0, deterministic=True)
    observation = np.linspace(-3, 2, 28).astype(np.float32)
    expected = plain(((observation - mean.numpy()) / 2).astype(np.float32))  # sqrt(4) = 2
    np.testing.assert_allclose(act(observation), expected, atol=1e-6)
    np.testing.assert_array_equal(
        act(observation), act(observation)
    )  # the statistics are not updated


def test_discrete_actions_are_drawn_from_the_softmax_of_the_logits():
    """Draw 1,000 times: the share of each action is its probability, and the mean is the most likely one."""
    env = SimpleNamespace(
        observation_space=Box(-5, 5, (4,), np.float32), action_space=Discrete(2, start=3)
    )
    settings = make_settings()
    policy = ActorCritic(4, 2, settings.agent, discrete=True)
    with torch.no_grad():
        policy.actor.head.weight.zero_()
        policy.actor.head.bias.copy_(torch.tensor([0.0, 1.0]))
    state = {"policy": policy.state_dict()}
    act = TrainedPolicy(state, settings, env, seed=0, deterministic=False)
    drawn = [int(act(np.zeros(4, np.float32))) for _ in range(1000)]
    assert set(drawn) == {3, 4}
    # 1 / (1 + exp(-1)) = 0.731; the standard deviation of the share is 0.014
    assert np.mean(np.array(drawn) == 4) == pytest.approx(0.731, abs=0.06)
    best = TrainedPolicy(state, settings, env, seed=0, deterministic=True)
    assert best(np.zeros(4, np.float32)) == 4


# ---- playing -----------------------------------------------------------------


class FakeAnt:
    """Ant that moves at 2 m/s toward the target, at 60 degrees from its heading, for some steps."""

    def __init__(self, steps, falls):
        self.steps, self.falls, self.seeds = steps, falls, []

    def observe(self):
        observation = np.zeros(28, np.float32)
        observation[1], observation[2] = np.sin(np.pi / 3), np.cos(np.pi / 3)
        # The target is 60 degrees to the left, and so is the velocity in the frame of the ant.
        observation[3], observation[4] = 0.3 * 2 * np.cos(np.pi / 3), 0.3 * 2 * np.sin(np.pi / 3)
        return observation

    def reset(self, *, seed=None):
        self.seeds.append(seed)
        self.done = 0
        return self.observe(), {}

    def step(self, action):
        self.done += 1
        over = self.done == self.steps
        return self.observe(), 1.5, over and self.falls, over and not self.falls, {}

    def render(self):
        return np.full((4, 6, 3), self.done, np.uint8)


@pytest.mark.parametrize("falls", [True, False])
def test_an_episode_computed_by_hand(falls):
    env = FakeAnt(7, falls)
    clip, fell = play(env, lambda observation: np.zeros(8), VIEWS["bullet"], "title", seed=4)
    assert (fell, clip.title, env.seeds) == (falls, "title", [4])
    # A picture at the start, after every 3 steps, and at the end.
    assert [frame.picture[0, 0, 0] for frame in clip.frames] == [0, 3, 6, 7]
    np.testing.assert_allclose([f.seconds for f in clip.frames], [0, 0.0495, 0.099, 0.1155])
    np.testing.assert_allclose([f.episode_return for f in clip.frames], [0, 4.5, 9, 10.5])
    # 2 m/s, for 16.5 ms each.
    np.testing.assert_allclose(
        [f.distance for f in clip.frames], [0, 0.099, 0.198, 0.231], rtol=1e-6
    )


@pytest.fixture
def brief(monkeypatch):
    """Take few pictures: rendering them takes longer than the episode."""
    pytest.importorskip("pybullet")
    monkeypatch.setitem(VIEWS, "bullet", View(0.0165, 100, "fell", bullet_speed))


def test_a_run_is_shown_at_its_latest_task(brief, tmp_path, capsys):
    path = write_run(tmp_path / "seed_3", task=2)
    assert video(VideoConfig(path, seed=1)) == path / "video.gif"
    printed = capsys.readouterr().out
    friction = task_friction(child_seed(3, "stream"), 2)
    assert f"syre, seed 3, after 2.048 k steps, friction {friction:.3g} (task 2)" in printed
    assert "episode 1: " in printed
    with Image.open(path / "video.gif") as film:
        assert film.size == (320, 240)
        assert film.n_frames >= 2


def test_the_friction_is_that_of_a_task_or_a_given_one(brief, tmp_path, monkeypatch):
    path = write_run(tmp_path / "seed_3")
    frictions = []

    def make_env(settings, values):
        assert settings.stream.engine == "bullet"
        frictions.append(values["friction"])
        return SlipperyAntBulletEnv(**values, render_mode="rgb_array")

    monkeypatch.setattr(command, "_make_env", make_env)
    monkeypatch.setattr(command, "play", lambda *_, **__: (SimpleNamespace(frames=["end"]), False))
    monkeypatch.setattr(command, "write_video", lambda *_: None)
    for given in ({"values": ("friction=1.25",)}, {"task": 5}, {}):
        video(VideoConfig(path, **given))
    stream = child_seed(3, "stream")
    assert frictions == [1.25, task_friction(stream, 5), task_friction(stream, 1)]


def test_the_same_command_writes_the_same_file(brief, tmp_path):
    path = write_run(tmp_path / "seed_3")
    for name in ("one.gif", "two.gif"):
        video(VideoConfig(path, out=tmp_path / name, values=("friction=0.5",), seed=2))
    assert (tmp_path / "one.gif").read_bytes() == (tmp_path / "two.gif").read_bytes()


def test_episodes_follow_each_other_and_differ(brief, tmp_path, capsys):
    path = write_run(tmp_path / "seed_3")
    main_exits(["video", str(path), "--episodes", "2", "--out", str(tmp_path / "strip.png")], 0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("episode")]
    assert [line[:9] for line in lines] == ["episode 1", "episode 2"]
    assert lines[0][9:] != lines[1][9:]
    assert (tmp_path / "strip.png").is_file()


@pytest.mark.parametrize("engine", ["bullet", "mujoco"])
def test_a_real_checkpoint_can_be_shown(brief, tmp_path, monkeypatch, engine):
    """Check that the checkpoint of a run can be read."""
    from plasticity.scripts.run.control_experiment import ControlExperiment

    if engine == "mujoco":
        pytest.importorskip("mujoco")
        monkeypatch.setitem(VIEWS, engine, View(0.05, 100, "fell", mujoco_speed))
        try:
            SlipperyAntMujocoEnv(render_mode="rgb_array").close()
        except RuntimeError as error:
            pytest.skip(f"no OpenGL here: {error}")
    settings = ControlRunConfig(
        benchmark="slippery-ant" if engine == "bullet" else f"slippery-ant-{engine}",
        stream=SlipperyAntConfig(engine=engine, num_steps=64, change_every=64, num_envs=2),
        tracking=ControlTracking(metrics=(), measure_every=64),
        agent=PPOConfig(
            hidden=(8,), rollout_steps=64, minibatch_size=32, epochs=1, normalize_observations=True
        ),
    )
    experiment = ControlExperiment([settings], stacked=False)
    assert experiment.next_rows(lambda: False)
    (state,) = experiment.state_dicts([0])
    experiment.close()
    path = write_run(tmp_path / "seed_0", settings)
    torch.save({"experiment": state}, path / "checkpoint.pt")
    assert video(VideoConfig(path)).is_file()


# ---- errors --------------------------------------------------------------------


def main_exits(arguments, code):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == code


def test_the_command_prints_its_options_and_errors(tmp_path, capsys):
    main_exits(["video", "--help"], 0)
    assert "--deterministic" in capsys.readouterr().out
    main_exits(["video", str(tmp_path)], 2)
    assert "is not the folder of a run" in capsys.readouterr().err


def test_the_error_on_a_folder_of_runs_names_one_of_them(tmp_path):
    path = write_run(tmp_path / "slippery-ant" / "syre" / "seed_3")
    with pytest.raises(ValueError, match=f"give one of the runs in it, such as {path}"):
        video(VideoConfig(tmp_path))


def test_the_error_on_an_image_run_names_its_benchmark(tmp_path):
    config = {"benchmark": "permuted-digits", "method": {}, "seed": 0, "stream": {"num_tasks": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"is a run of permuted-digits, .* a run of slippery-ant"):
        video(VideoConfig(tmp_path))


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    path = write_run(tmp_path)
    (path / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match=r"has no checkpoint\.pt yet.*Wait for it"):
        video(VideoConfig(path))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80\x02csome.module\nname\n."])
def test_a_broken_checkpoint_is_named(tmp_path, content):
    path = write_run(tmp_path)
    (path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt contains no readable policy"):
        video(VideoConfig(path))


def test_a_foreign_checkpoint_is_named(tmp_path):
    path = write_run(tmp_path)
    torch.save({"experiment": {"classifier": {}}}, path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt contains no readable policy"):
        video(VideoConfig(path))


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path):
    settings = make_settings()
    state = make_state(settings)
    del state["policy"]["actor.fc2.bias"]
    with pytest.raises(ValueError, match=r"does not fit the run's config\.json .*actor\.fc2\.bias"):
        TrainedPolicy(state, settings, ENV, seed=0, deterministic=True)


def test_a_configuration_that_cannot_be_read_is_named(tmp_path):
    path = write_run(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "agent": {"gamma": 2.0}}))
    with pytest.raises(ValueError, match=r"config\.json: gamma must be at most 1"):
        video(VideoConfig(path))


def test_without_pybullet_the_remedy_is_printed(tmp_path, monkeypatch, capsys):
    def missing(*_, **__):
        raise ModuleNotFoundError("install PyBullet", name="pybullet")

    monkeypatch.setitem(ENGINES, "bullet", missing)
    main_exits(["video", str(write_run(tmp_path))], 2)
    assert "plasticity: install PyBullet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": ("friction",)}, "--values friction must be NAME=NUMBER"),
        ({"values": ("friction=slippery",)}, "--values friction=slippery must be NAME=NUMBER"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"task": -1}, "task must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_invalid_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        VideoConfig(tmp_path, **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("friction=-1", "friction must be a finite number of at least 0"),
        ("frction=1", "Unknown value 'frction'. Did you mean 'friction'?"),
    ],
)
def test_values_that_the_environment_does_not_have_are_refused(tmp_path, given, message):
    pytest.importorskip("pybullet")
    with pytest.raises(ValueError, match=re.escape(message)):
        video(VideoConfig(write_run(tmp_path), values=(given,)))


def test_an_unknown_suffix_is_refused_before_anything_is_read(tmp_path):
    path = write_run(tmp_path)
    (path / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match="has an unknown suffix"):
        video(VideoConfig(path, out=tmp_path / "ant.avi"))


def test_an_algorithm_of_stable_baselines3_has_no_video(tmp_path):
    settings = with_values(make_settings(), {"agent": SACConfig(), "stream.num_envs": 1})
    path = write_run(tmp_path / "run", settings, {"policy": {}, "num_steps": 0})
    with pytest.raises(ValueError, match="is a run of sb3:sac, and a video shows our PPO alone"):
        video(VideoConfig(run=path))
