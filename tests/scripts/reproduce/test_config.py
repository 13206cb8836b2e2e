"""Configuration of a figure's runs."""

import pytest

from plasticity.scripts.reproduce.config import FigureConfig, FigureStream, FigureTracking


def test_it_is_saved_and_read():
    config = FigureConfig(benchmark="b", seed=3, stream=FigureStream(num_steps=7))
    saved = config.to_json()
    assert saved["stream"] == {"num_steps": 7}
    assert FigureConfig(benchmark="b").read(saved) == config


@pytest.mark.parametrize(
    ("num_steps", "measure_every", "length"), [(100, 10, 100), (101, 10, 110), (1, 1, 1), (3, 7, 7)]
)
def test_its_length_is_the_step_of_its_last_row(num_steps, measure_every, length):
    config = FigureConfig(
        benchmark="b",
        stream=FigureStream(num_steps=num_steps),
        tracking=FigureTracking(measure_every=measure_every),
    )
    assert config.length == length
    assert config.has_row(length)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        FigureStream(num_steps=0)
    with pytest.raises(ValueError, match="measure_every must be at least 1"):
        FigureTracking(measure_every=0)
