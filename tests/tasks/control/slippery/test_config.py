"""Settings of all families on slippery floors: they share one stream of frictions."""

import pytest

from plasticity.tasks import FrictionStream
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.control.humanoid.config import SlipperyHumanoidConfig
from plasticity.tasks.control.slippery.config import DEVICE_ENGINES

WHOLE = {"num_steps": 4096, "change_every": 1024}


def test_every_body_has_the_same_frictions():
    streams = [
        config.make_stream(4, seed=9)
        for config in (SlipperyAntConfig(engine="mujoco", **WHOLE), SlipperyHumanoidConfig(**WHOLE))
    ]
    assert all(isinstance(stream, FrictionStream) for stream in streams)
    ant, humanoid = ([stream.describe(k)["friction"] for k in range(4)] for stream in streams)
    assert ant == humanoid
    assert len(set(ant)) == 4
    assert SlipperyAntConfig(engine="mujoco", **WHOLE).described == ("friction",)


@pytest.mark.parametrize("config", [SlipperyAntConfig, SlipperyHumanoidConfig])
def test_warp_alone_steps_on_a_device(config):
    for engine in config.engines:
        made = config(engine=engine, **WHOLE)
        assert made.on_device == (engine in DEVICE_ENGINES)
        assert made._warp_class().body.name in config.__name__.lower()
