import math

import pytest

from plasticity.mitigations import Syre
from plasticity.optim.settings import RegularizerSettings


def test_the_default_sigma_is_that_of_the_optimizer():
    assert Syre().sigma == RegularizerSettings().sigma == 0.01  # the paper's


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("strength", v) for v in (-0.1, math.nan, math.inf, "1", True)],
        *[("sigma", v) for v in (-0.1, math.nan, math.inf, "1", None)],
        *[("anisotropy", v) for v in (-0.1, 0.58)],  # 1/sqrt(3) = 0.577 is the bound
        ("decoupled", "yes"),
    ],
)
def test_wrong_values_are_refused_by_name(key, value):
    with pytest.raises((ValueError, TypeError), match=key):
        Syre(**{key: value})


def test_strength_zero_is_a_control():
    assert Syre(strength=0.0).strength == 0.0
