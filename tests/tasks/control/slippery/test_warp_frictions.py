"""Coming tasks of many environments, against the schedule of each."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.tasks.control.slippery.friction import FrictionSchedule
from plasticity.tasks.control.slippery.warp_frictions import ComingTasks

streams = st.builds(
    FrictionSchedule,
    task_seed=st.integers(0, 3),
    num_tasks=st.none() | st.integers(1, 4),
    change_every=st.integers(1, 9),
)
forever = st.builds(FrictionSchedule, friction=st.sampled_from([0.02, 1.0]))


@settings(max_examples=60, deadline=None)
@given(st.lists(streams | forever, min_size=1, max_size=6), st.data())
def test_coming_tasks_match_each_schedule(schedules, data):
    coming = ComingTasks(schedules, torch.device("cpu"))
    first = np.zeros(len(schedules), np.int64)
    for number in range(40):
        if number == 20:  # as after loading: step counts may differ between environments
            numbers = st.integers(0, 10**12)
            first = np.array([data.draw(numbers) for _ in schedules], np.int64) - number
            coming.restart(first + number)
        steps = first + number
        assert coming.steps.tolist() == steps.tolist()
        tasks = [
            schedule.task_at(int(made)) for schedule, made in zip(schedules, steps, strict=True)
        ]
        assert coming.tasks.tolist() == [task.index for task in tasks]
        frictions = torch.tensor([task.friction for task in tasks])
        assert torch.equal(coming.frictions, frictions)
        coming.advance()
