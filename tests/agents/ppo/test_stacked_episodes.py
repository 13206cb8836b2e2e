"""Episodes counted from a whole rollout compared with RunningEpisodes, step by step."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.agents.ppo.episodes import RunningEpisodes
from plasticity.agents.ppo.stacked_episodes import StackedEpisodes


def by_steps(running, rewards, ended, tasks, frictions, num_steps):
    found = []
    for step, row in enumerate(rewards):
        infos = {"task": tasks[step], "friction": frictions[step]}
        if tasks[step, 0] >= 0:
            running.read_task(infos)
        running.add(row)
        num_steps += len(row)
        found += [running.end(i, num_steps) for i in np.flatnonzero(ended[step]).tolist()]
    if tasks[-1, 0] >= 0:
        running.read_task({"task": tasks[-1], "friction": frictions[-1]})
    return tuple(found)


def draw_rollout(generator, steps, environments, known):
    tasks = generator.integers(0, 5, (steps + 1, environments))
    return (
        generator.normal(size=(steps, environments)),
        generator.random((steps, environments)) < 0.2,
        tasks if known else np.full_like(tasks, -1),
        generator.random((steps + 1, environments)) if known else np.full(tasks.shape, np.nan),
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_stacked=st.integers(1, 3),
    num_envs=st.integers(1, 3),
    steps=st.integers(1, 12),
    known=st.booleans(),
)
def test_equals_running_episodes(seed, num_stacked, num_envs, steps, known):
    generator = np.random.default_rng(seed)
    ours = StackedEpisodes(num_stacked, num_envs)
    theirs = [RunningEpisodes(num_envs) for _ in range(num_stacked)]
    done = [100 * index for index in range(num_stacked)]
    for rollout in range(3):
        parts = draw_rollout(generator, steps, num_stacked * num_envs, known)
        if rollout == 1:  # each continues from the other's state
            states = [ours.state_dict(index) for index in range(num_stacked)]
            for index, running in enumerate(theirs):
                ours.load_state_dict(index, running.state_dict())
                running.load_state_dict(states[index])
        found = ours.read(*parts, done)
        for index, running in enumerate(theirs):
            own = [part[:, index * num_envs : (index + 1) * num_envs] for part in parts]
            assert found[index] == by_steps(running, *own, done[index])
            expected = (running.newest_task, running.newest_friction)
            assert ours.newest(index) == expected
        done = [steps_done + steps * num_envs for steps_done in done]
