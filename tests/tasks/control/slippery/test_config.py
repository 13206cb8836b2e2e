"""Settings of all families on slippery floors: they share one stream of frictions."""

from plasticity.tasks import FrictionStream
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.control.humanoid.config import SlipperyHumanoidConfig
from plasticity.tasks.control.slippery.config import SlipperyConfig

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
    assert SlipperyConfig(**WHOLE).described == ("friction",)
