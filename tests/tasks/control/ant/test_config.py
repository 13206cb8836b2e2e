import re

import pytest

from plasticity.tasks import ENGINES
from plasticity.tasks.control.ant.config import SlipperyAntConfig

WHOLE = {"engine": "bullet", "num_steps": 4096, "change_every": 1024}


def test_every_engine_is_known():
    assert [SlipperyAntConfig(**{**WHOLE, "engine": e}).engine for e in ENGINES] == list(ENGINES)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("engine", "mujocco", ValueError, "Unknown engine 'mujocco'. Did you mean 'mujoco'?"),
        ("engine", 3, TypeError, "engine must be a name, not 3"),
        ("num_steps", 0, ValueError, "num_steps must be at least 1"),
        ("num_envs", 1.5, TypeError, "num_envs must be an integer"),
        ("cores", 0, ValueError, "cores must be at least 1"),
        ("cores", True, TypeError, "cores must be an integer"),
        ("change_every", 1023, ValueError, "change_every must be a multiple of num_envs, 8"),
    ],
)
def test_wrong_values_are_refused(key, value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SlipperyAntConfig(**{**WHOLE, key: value})


def test_a_run_by_itself_uses_one_core():
    assert SlipperyAntConfig(**WHOLE).num_cores == 1
    assert SlipperyAntConfig(**WHOLE, cores=3).num_cores == 3
