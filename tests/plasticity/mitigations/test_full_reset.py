import torch
from networks_in_training import Training

from plasticity.mitigations import FullReset


def test_the_network_is_as_one_made_from_the_generator():
    run = Training((FullReset(),)).train(5)
    generator = torch.Generator().set_state(run.hooks._contexts[0].generators[0].get_state())
    run.hooks.boundary(1, [0])
    found = run.everything()
    # the layers' own weights and biases, drawn in the order in which a network makes them
    for name, fan_in in (("conv", 4), ("fc", 12), ("head", 5)):
        for own in ("weight", "bias"):
            each = found.get(f"{name}.{own}")
            if each is not None:
                drawn = torch.empty_like(each).uniform_(
                    -(fan_in**-0.5), fan_in**-0.5, generator=generator
                )
                torch.testing.assert_close(each, drawn)
    assert (found["norm.running_var"] == 1).all()
    assert not any(each.any() for name, each in found.items() if "/" in name)
    assert all(state["step"] == 0 for state in run.optimizer.state.values())


def test_each_reset_is_another_draw():
    run = Training((FullReset(),))
    found = []
    for task in (1, 2):
        run.hooks.boundary(task, [0])
        found.append(run.everything()["fc.weight"])
    assert (found[0] != found[1]).all()


def test_all_forms_agree(trains_alike):
    trains_alike(*[(FullReset(),)] * 2)
