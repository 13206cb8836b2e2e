import re

import pytest

from plasticity.tasks import ENGINES, task_friction
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.control.ant.views import VIEWS

WHOLE = {"engine": "bullet", "num_steps": 4096, "change_every": 1024}


def test_every_engine_is_known():
    assert [SlipperyAntConfig(**{**WHOLE, "engine": e}).engine for e in ENGINES] == list(ENGINES)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("engine", "mujocco", ValueError, "Unknown engine 'mujocco'. Did you mean 'mujoco'?"),
        ("engine", 3, TypeError, "engine must be a name, not 3"),
        ("num_steps", 0, ValueError, "num_steps must be at least 1"),
        ("change_every", 1023, ValueError, "change_every must be a multiple of num_envs, 8"),
    ],
)
def test_wrong_values_are_refused(key, value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SlipperyAntConfig(**{**WHOLE, key: value})


def test_the_family_says_what_its_runs_need():
    for engine, each in ((e, SlipperyAntConfig(**{**WHOLE, "engine": e})) for e in ENGINES):
        assert each.on_device == (engine == "warp")
        assert each.view is VIEWS[engine]
        stream = each.make_stream(3, seed=5)
        assert (len(stream), stream.change_every) == (3, 1024)
        assert stream.describe(2) == {"friction": task_friction(5, 2)}
