import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from made_up_mitigations import ALL, L2Penalty

from plasticity.mitigations import (
    MITIGATIONS,
    CReLU,
    L2Init,
    LayerNorm,
    Mitigation,
    ReDo,
    Shift,
    Syre,
)
from plasticity.mitigations.stacked_settings import (
    acts_on_steps,
    overrides,
    stack_key,
    stack_settings,
)

LIKE = torch.zeros((), dtype=torch.float64)


def test_only_what_is_called_in_training_acts_on_steps():
    found = {name for name, kind in MITIGATIONS.items() if acts_on_steps(kind())}
    assert {"redo"} <= found
    assert not found & {
        "weight-decay",
        "syre",
        "l2-init",
        "shift",
        "layer-norm",
        "crelu",
        "dropout",
    }
    assert all(map(acts_on_steps, ALL))
    assert overrides(ReDo(), "after_step")
    assert not overrides(ReDo(), "penalty")


def test_methods_that_can_be_stacked_have_one_key():
    assert stack_key(()) == stack_key((Syre(),)) == stack_key((L2Init(strength=3.0), Shift()))
    redo = stack_key((ReDo(every=5, tau=0.1),))
    assert redo == stack_key((ReDo(every=5, tau=0.2),)) == stack_key((Syre(), ReDo(every=5)))
    json.loads(redo)


def test_methods_that_cannot_be_stacked_have_different_keys():
    methods = [
        (),
        (ReDo(),),
        (ReDo(every=5),),
        (LayerNorm(),),
        (LayerNorm(affine=False),),
        (LayerNorm(epsilon=0.1),),  # a float, but of a network
        (CReLU(),),
        (LayerNorm(), CReLU()),
        (CReLU(), LayerNorm()),
        (L2Penalty(),),
    ]
    keys = [stack_key(method) for method in methods]
    assert len(set(keys)) == len(keys)


def test_equal_settings_stay_as_they_are():
    assert stack_settings([ReDo(tau=0.1), ReDo(tau=0.1)], LIKE) == ReDo(tau=0.1)


def test_floats_that_differ_are_tensors():
    found = stack_settings([ReDo(every=5, tau=tau) for tau in (0.1, 0.2, 0.3)], LIKE)
    assert type(found) is ReDo
    assert (found.every, found.cadence) == (5, 5)
    assert torch.equal(found.tau, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))


@dataclass(frozen=True, kw_only=True)
class Named(Mitigation):
    name: ClassVar[str] = "named"
    kind: str = "a"
    strength: float = 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([ReDo(every=5), ReDo(every=6)], r"redo.every must be equal in all .* not \[5, 6\]"),
        ([Named(kind="a"), Named(kind="b")], r"named.kind must be equal in all"),
        ([ReDo(), Named()], "must be of one kind: redo, named"),
    ],
)
def test_other_settings_that_differ_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        stack_settings(settings, LIKE)
