import torch
from networks_in_training import Training

from plasticity.mitigations import OptimizerReset


def test_the_state_begins_anew_and_the_weights_stay():
    run = Training((OptimizerReset(),)).train(5)
    before = run.everything()
    run.hooks.boundary(1, [0])
    after = run.everything()
    for name, each in after.items():
        assert not each.any() if "/" in name else torch.equal(each, before[name]), name
    run.steps = 6  # whose boundary was
    run.train(1)
    moved = (run.everything()["head.weight"] - after["head.weight"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01))  # Adam's first step: the rate


def test_all_forms_agree(trains_alike):
    trains_alike(*[(OptimizerReset(every=4),)] * 2)
