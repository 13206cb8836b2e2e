"""Options of a search."""

import pytest

from plasticity.scripts.tune.options import TUNING_SEEDS, CompareOptions, TuneOptions


def test_defaults():
    assert TuneOptions() == TuneOptions(grid=(), budget=30, fraction=0.1, search="random")
    assert CompareOptions().tuning_seeds == TUNING_SEEDS == (1000, 1001, 1002)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "--budget must be"),
        ({"fraction": 0.0}, "--fraction must be above 0 and at most 1, not 0.0"),
        ({"fraction": 1.5}, "--fraction must be above 0 and at most 1, not 1.5"),
        ({"measure": "weight_norm/total"}, "--measure weight_norm/total: neither more nor less"),
        ({"search": "randm"}, "Unknown --search 'randm'. Did you mean 'random'"),
    ],
)
def test_wrong_options(settings, message):
    with pytest.raises(ValueError, match=message):
        TuneOptions(**settings)
