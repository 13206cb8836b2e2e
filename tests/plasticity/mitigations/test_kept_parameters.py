import torch
from networks_in_training import context_of, images, marker, stacked

from plasticity.mitigations.kept_parameters import copies, keep_parameters, kept_parameters


def make_context():
    networks, _, _ = stacked([marker(seed) for seed in range(2)], images())
    return context_of(networks, 0, 1)


def test_copies_stay_when_the_parameters_move():
    context = make_context()
    found = copies(context.parameters, "slow/")
    assert set(found) == {f"slow/{name}" for name in context.parameters}
    before = context.parameters["fc.weight"].detach().clone()
    with torch.no_grad():
        context.parameters["fc.weight"].add_(1)
    assert torch.equal(found["slow/fc.weight"], before)
    assert not found["slow/fc.weight"].requires_grad


def test_kept_parameters_are_replaced_in_place_and_their_neighbours_stay():
    context = make_context()
    context.state = copies(context.parameters, "slow/") | copies(context.parameters, "first/")
    kept = kept_parameters(context, "slow/")
    assert kept.keys() == context.parameters.keys()
    with torch.no_grad():
        for each in context.parameters.values():
            each.add_(1)
    assert not torch.equal(kept["head.bias"], context.parameters["head.bias"])
    with torch.no_grad():
        keep_parameters(context, "slow/")
    for name, each in context.parameters.items():
        assert kept[name] is context.state[f"slow/{name}"]
        assert torch.equal(kept[name], each)
        assert not torch.equal(context.state[f"first/{name}"], each)
