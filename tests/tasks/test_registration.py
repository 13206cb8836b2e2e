"""Environment ids, which work in any process, workers included, with their module before the colon."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
ENGINES = {"pybullet": "Bullet", "mujoco": "Mujoco"}

# Each program is a fresh process that does not import plasticity, and so are the workers that it starts.
HEAD = """
import json, multiprocessing, pickle, sys
from pathlib import Path
import gymnasium
from gymnasium.envs.registration import EnvSpec
ID = sys.argv[1]
folder = Path(sys.argv[2])
def first(env):
    env.action_space.seed(0)
    observation, info = env.reset(seed=7)
    found = [observation.tolist(), env.step(env.action_space.sample())[1], info["friction"]]
    env.close()
    return found
"""
MAKE = """
env = gymnasium.make(ID, task_seed=3, change_every=1000, max_episode_steps=50)
spec = env.spec
(folder / "spec.pickle").write_bytes(pickle.dumps(spec))
(folder / "spec.json").write_text(spec.to_json())
(folder / "first.json").write_text(json.dumps(first(env)))
assert first(gymnasium.make(spec)) == json.loads((folder / "first.json").read_text())
"""
MAKE_AGAIN = """
expected = json.loads((folder / "first.json").read_text())
for spec in (
    pickle.loads((folder / "spec.pickle").read_bytes()),
    EnvSpec.from_json((folder / "spec.json").read_text()),
):
    env = gymnasium.make(spec)
    assert env.spec.max_episode_steps == 50
    assert first(env) == expected
"""
GYMNASIUM_WORKERS = """
if __name__ == "__main__":
    envs = gymnasium.make_vec(
        ID,
        2,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        task_seed=3,
        change_every=1000,
    )
    observations, _ = envs.reset(seed=7)
    envs.close()
    one = gymnasium.make_vec(ID, 2, vectorization_mode="sync", task_seed=3, change_every=1000)
    assert (observations == one.reset(seed=7)[0]).all()
    one.close()
    again = gymnasium.make_vec(envs.spec)
    assert (observations == again.reset(seed=7)[0]).all()
    again.close()
"""
STABLE_BASELINES3_WORKERS = """
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
if __name__ == "__main__":
    def first_of(env_id):
        envs = make_vec_env(
            env_id, 1, seed=7, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "spawn"}
        )
        observations = envs.reset()
        envs.close()
        return observations

    # As rl_zoo3 makes its environments: with --gym-packages plasticity.tasks, by the specification.
    __import__("plasticity.tasks")
    spec = gymnasium.spec(ID.rpartition(":")[2])
    assert (first_of(lambda **keywords: spec.make(**keywords)) == first_of(ID)).all()
"""


def run(folder, body, engine):
    program = folder / "program.py"
    program.write_text(HEAD + body)
    env_id = f"plasticity.tasks:plasticity/SlipperyAnt{ENGINES[engine]}-v0"
    done = subprocess.run(
        [sys.executable, program, env_id, folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_an_id_and_its_specification_work_in_any_process(tmp_path, engine):
    pytest.importorskip(engine)
    run(tmp_path, MAKE, engine)
    run(tmp_path, MAKE_AGAIN, engine)


@pytest.mark.parametrize("body", [GYMNASIUM_WORKERS, STABLE_BASELINES3_WORKERS])
def test_an_id_works_in_spawned_workers(tmp_path, body):
    pytest.importorskip("mujoco")
    run(tmp_path, body, "mujoco")


def test_every_documented_id_has_its_module():
    """Check the ids that users read, except in commands where another option imports the module."""
    files = [
        HOUSE / "README.md",
        HOUSE / "CONTRIBUTING.md",
        *(HOUSE / "docs").rglob("*.md"),
        *(
            path
            for folder in ("examples", "agents", "plasticity", "scripts", "tasks")
            for path in (HOUSE / folder).rglob("*.py")
            if path != HOUSE / "tasks/__init__.py"  # which registers them
        ),
    ]
    seen = set()
    for path in files:
        for line in path.read_text().splitlines():
            for env_id in re.findall(r"[\w.:]*plasticity/SlipperyAnt\w*-v\d", line):
                seen.add(path.relative_to(HOUSE).parts[0])
                assert env_id.startswith("plasticity.tasks:") or "--gym-packages" in line, path
    assert seen >= {"docs", "examples", "scripts", "tasks"}, seen
