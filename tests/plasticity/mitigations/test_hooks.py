"""Hooks of a method on their own: order, cadence, features to record, states, frozen networks."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from made_up_mitigations import (
    Average,
    Clip,
    FeaturePenalty,
    GradientScale,
    L2Penalty,
    Noise,
    Shrink,
)
from networks_in_training import adam, images, marker, single, stacked, step

from plasticity.mitigations import CPR, EffectiveRank, Mitigation, ReDo, Syre
from plasticity.mitigations.hooks import Hooks, replaced_parameters, require_same_mitigations
from plasticity.seeds import child_seed


def hooks_of(*method, seed=0):
    model = marker()
    return Hooks([method], single(model, adam(model), images()), [seed])


def three(*method):
    networks, run, optimizer = stacked([marker(seed) for seed in range(3)], images())
    step(run, optimizer, images().expand(3, *images().shape))
    hooks = Hooks([method] * 3, networks, [1, 2, 3])
    hooks.begin(lambda: images().expand(3, *images().shape))
    return hooks, networks


def copies(networks):
    return {name: each.detach().clone() for name, each in networks.parameters.items()}


CALLS = []


@dataclass(frozen=True, kw_only=True)
class First(Mitigation):
    """Mitigation that notes its calls."""

    name: ClassVar[str] = "first"
    claims: ClassVar[str] = "first"
    every: int = 1

    def initial_state(self, context):
        CALLS.append(f"{self.name} initial_state")
        return {}

    def penalty(self, context):
        CALLS.append(f"{self.name} penalty")
        assert torch.is_grad_enabled()

    def before_step(self, context):
        CALLS.append(f"{self.name} before_step")
        assert not torch.is_grad_enabled()

    def after_step(self, context):
        CALLS.append(f"{self.name} after_step {context.step}")
        assert not torch.is_grad_enabled()

    def boundary(self, context):
        CALLS.append(f"{self.name} boundary {context.task}")

    def evaluation_parameters(self, context):
        CALLS.append(f"{self.name} evaluation_parameters")


@dataclass(frozen=True, kw_only=True)
class Second(First):
    """The same, less often."""

    name: ClassVar[str] = "second"
    claims: ClassVar[str] = "second"
    every: int = 2


def test_hooks_are_called_in_the_order_of_the_method():
    CALLS.clear()
    hooks = hooks_of(Second(), Syre(), First())  # syre acts on no step
    assert hooks.names == "second, first"
    hooks.begin(images)
    hooks.begin(images)  # only the first call does anything
    for _ in range(2):
        assert hooks.penalty() is None
        hooks.before_step()
        hooks.after_step()
    hooks.boundary(3, [0])
    assert hooks.evaluation_parameters() == {}
    assert [
        *["second initial_state", "first initial_state"],
        *["second penalty", "first penalty", "second before_step", "first before_step"],
        "first after_step 1",
        *["second penalty", "first penalty", "second before_step", "first before_step"],
        *["second after_step 2", "first after_step 2"],
        *["second boundary 3", "first boundary 3"],
        *["second evaluation_parameters", "first evaluation_parameters"],
    ] == CALLS


def test_what_comes_last_is_called_after_the_others():
    @dataclass(frozen=True, kw_only=True)
    class Last(First):
        name: ClassVar[str] = "last"
        claims: ClassVar[str] = "last"
        comes_last: ClassVar[bool] = True

    for method in ((Last(), First(), Second()), (First(), Last(), Second())):
        hooks = hooks_of(*method)
        CALLS.clear()
        hooks.begin(images)
        hooks.boundary(1, [0])
        called = [each.split()[0] for each in CALLS]
        assert called == ["first", "second", "last"] * 2


def test_what_comes_first_is_called_before_the_others():
    @dataclass(frozen=True, kw_only=True)
    class Earliest(First):
        name: ClassVar[str] = "earliest"
        claims: ClassVar[str] = "earliest"
        comes_first: ClassVar[bool] = True

    hooks = hooks_of(First(), Earliest(), Second())
    CALLS.clear()
    hooks.begin(images)
    hooks.before_step()
    called = [each.split()[0] for each in CALLS]
    assert called == ["earliest", "first", "second"] * 2


@dataclass(frozen=True, kw_only=True)
class Remembers(Mitigation):
    """Mitigation that remembers a 1 of each weight, as a moment and otherwise."""

    name: ClassVar[str] = "remembers"
    claims: ClassVar[str] = "what is remembered"
    memories: ClassVar[tuple[str, ...]] = ("moment",)

    def initial_state(self, context):
        ones = {name: torch.ones_like(each) for name, each in context.trained.items()}
        return {
            f"{key}/{name}": one.clone()
            for key in ("moment", "other")
            for name, one in ones.items()
        }


@pytest.mark.parametrize("is_stacked", [False, True])
def test_what_a_mitigation_remembers_as_a_moment_is_cleared_like_one(is_stacked):
    if is_stacked:
        hooks, networks = three(Remembers())
    else:
        model = marker()
        networks = single(model, adam(model), images())
        hooks = Hooks([[Remembers()]], networks, [0])
        hooks.begin(images)
    (context,) = hooks._contexts
    own = context.of_run(0) if is_stacked else context
    own.replace("fc.bias", torch.tensor([True, False, True, False, False]), torch.zeros(5))
    own.clear_moments("conv.bias")
    own.restart_optimizer(["head.bias"])
    own.reset_units({"fc": torch.tensor([False, True, False, False, False])})
    found = own.state
    assert found["moment/fc.bias"].tolist() == [0, 0, 0, 1, 1]
    assert found["moment/conv.bias"].tolist() == [0, 0, 0]
    assert found["moment/head.bias"].tolist() == [0, 0]
    for axis, weight in ((0, "fc.weight"), (1, "head.weight")):
        assert found[f"moment/{weight}"].amax(1 - axis).tolist() == [1, 0, 1, 1, 1]
        assert found[f"moment/{weight}"].amin(1 - axis).tolist() == [1, 0, 1, 1, 1]
    assert all((each == 1).all() for name, each in found.items() if name.startswith("other"))
    if is_stacked:
        assert all((each[1:] == 1).all() for each in context.state.values())


def test_penalties_add_up():
    hooks = hooks_of(L2Penalty(strength=0.5), GradientScale())
    hooks.begin(images)
    squares = sum(each.square().sum() for each in marker().parameters())
    torch.testing.assert_close(hooks.penalty(), 0.25 * squares)
    assert hooks.has_penalty
    assert hooks.penalty().requires_grad
    assert not hooks_of(GradientScale()).has_penalty
    with torch.no_grad():  # as PPO's updates run
        assert hooks.penalty().requires_grad


def test_features_are_recorded_for_the_steps_that_need_them():
    hooks = hooks_of(ReDo(every=3), Noise())
    hooks.begin(images)
    recorded = []
    for _ in range(6):
        recorded.append(hooks.recorded_layers)
        hooks.after_step() if hooks.recorded_layers == () else _observed_step(hooks)
    layers = ("fc", "head")  # that read the hidden layers
    assert recorded == [(), (), layers, (), (), layers]
    assert hooks.all_recorded_layers == layers
    every = hooks_of(FeaturePenalty())
    every.begin(images)
    assert every.recorded_layers == layers
    assert hooks_of(Noise()).all_recorded_layers == ()
    assert every.penalizes_features
    assert not hooks.penalizes_features


def _observed_step(hooks):
    hooks.observe(images(), {"fc": torch.ones(6, 12), "head": torch.ones(6, 5)})
    hooks.after_step()


def test_noise_has_a_seed_of_its_own_for_each_mitigation_and_network():
    hooks, networks = three(Noise(sigma=1.0), Shrink())
    before = copies(networks)
    hooks.after_step()
    for index, seed in enumerate((1, 2, 3)):
        generator = torch.Generator().manual_seed(child_seed(seed, "noise"))
        for name, each in before.items():
            noise = torch.empty_like(each[index]).normal_(generator=generator)
            torch.testing.assert_close(networks.parameters[name][index], each[index] + noise)


def test_a_frozen_network_keeps_its_weights_and_its_number_of_steps():
    hooks, networks = three(Noise(sigma=1.0))
    hooks.after_step()
    hooks.freeze(1)
    before = copies(networks)
    hooks.after_step()
    for name, each in networks.parameters.items():
        assert torch.equal(each[1], before[name][1])
        assert (each[[0, 2]] != before[name][[0, 2]]).all()
    assert [hooks.state_dict(run)["steps"] for run in range(3)] == [2, 1, 2]
    assert hooks.step == 2
    for run in (0, 2):
        hooks.freeze(run)
    assert hooks.step == 0


def test_counts_are_taken_once():
    hooks, _ = three(Noise())
    assert hooks.take_counts() == [{}, {}, {}]
    hooks.after_step()
    hooks.after_step()
    assert hooks.take_counts() == [{"noise": 2.0}] * 3
    assert hooks.take_counts() == [{"noise": 0.0}] * 3


def test_a_boundary_is_of_the_networks_whose_task_ended():
    hooks, networks = three(Shrink(share=1.0))
    before = copies(networks)
    data = [(torch.randn(3, 4, 1, 3, 3), torch.zeros(3, 4))]
    hooks.boundary(2, [0, 2], lambda: data)
    for name, each in networks.parameters.items():
        assert torch.equal(each[1], before[name][1])
        assert (each[[0, 2]] != before[name][[0, 2]]).all()
    assert hooks.take_counts() == [{"boundaries": 1.0}, {"boundaries": 0.0}, {"boundaries": 1.0}]
    assert hooks.tasks == [2, 0, 2]
    generator = torch.Generator().manual_seed(child_seed(3, "shrink"))
    expected = torch.empty(3, 1, 2, 2).uniform_(-0.5, 0.5, generator=generator)  # 4 inputs
    torch.testing.assert_close(networks.parameters["conv.weight"][2], expected)
    for moment in networks.optimizer.moments("fc.weight").values():
        assert (moment[[0, 2]] == 0).all()
        assert (moment[1] != 0).all()


def test_each_network_has_its_own_loss_at_a_boundary():
    found = []

    @dataclass(frozen=True, kw_only=True)
    class Losses(Mitigation):
        name: ClassVar[str] = "losses"

        def boundary(self, context):
            found.append(context.loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item())

    hooks, _ = three(Losses())
    hooks.boundary(1, [0, 2], None, lambda run: lambda outputs, labels: outputs.sum() + run)
    assert found == [0, 2]
    hooks.boundary(2, [1])
    assert found[2] == pytest.approx(torch.tensor(2.0).log().item())  # cross-entropy


def test_each_network_sees_its_own_batches_at_a_boundary():
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Look(Mitigation):
        name: ClassVar[str] = "look"
        claims: ClassVar[str] = "nothing"

        def boundary(self, context):
            seen.append([(inputs.clone(), labels.clone()) for inputs, labels in context.batches()])

    hooks, _ = three(Look())
    inputs, labels = torch.randn(3, 4, 1, 3, 3), torch.arange(12).view(3, 4)
    hooks.boundary(
        1, [0, 2], lambda: [(inputs[:, :3], labels[:, :3]), (inputs[:, 3:], labels[:, 3:])]
    )
    for own, index in zip(seen, (0, 2), strict=True):
        assert torch.equal(torch.cat([batch for batch, _ in own]), inputs[index])
        assert torch.equal(torch.cat([batch for _, batch in own]), labels[index])
    with pytest.raises(RuntimeError, match="no batches"):
        hooks.boundary(2, [0])


def test_evaluation_parameters_hold_inside_the_block_only():
    hooks, networks = three(Average(rate=0.5))
    start = copies(networks)
    with torch.no_grad():
        for each in networks.parameters.values():
            each.add_(1.0)
    hooks.after_step()
    trained = copies(networks)
    with hooks.evaluating():
        for name, each in networks.parameters.items():
            torch.testing.assert_close(each, start[name] + 0.5)
    for name, each in networks.parameters.items():
        assert torch.equal(each, trained[name])
    with pytest.raises(ZeroDivisionError), hooks.evaluating():
        raise ZeroDivisionError
    for name, each in networks.parameters.items():
        assert torch.equal(each, trained[name])


def test_other_parameters_are_copied_into_the_same_memory():
    model = marker()
    parameters = dict(model.named_parameters())
    address, before = model.fc.weight.data_ptr(), model.fc.bias.detach().clone()
    with replaced_parameters(parameters, {"fc.weight": torch.zeros(5, 12)}):
        assert (model.fc.weight == 0).all()
        assert model.fc.weight.data_ptr() == address
        assert torch.equal(model.fc.bias, before)
    assert (model.fc.weight != 0).all()


def test_a_state_saved_stacked_continues_alone():
    method = (Average(rate=0.25), Noise(sigma=0.5))
    hooks, networks = three(*method)
    hooks.after_step()
    state = hooks.state_dict(1)
    model = marker()
    with torch.no_grad():
        for name, each in model.named_parameters():
            each.copy_(networks.parameters[name][1])
    alone = Hooks([method], single(model, adam(model), images()), [9])  # the seed is in the state
    alone.load_state_dict(state)
    alone.begin(images)
    for each in (hooks, alone):
        each.after_step()
    for name, each in model.named_parameters():
        torch.testing.assert_close(each, networks.parameters[name][1])
    (found,), (_, expected, _) = alone.take_counts(), hooks.take_counts()
    assert found == expected == {"noise": 2.0}
    averages = hooks.state_dict(1)["average"]["state"]
    for name, each in alone.state_dict()["average"]["state"].items():
        torch.testing.assert_close(each, averages[name])


def test_a_state_from_another_kind_of_device_is_seeded_by_its_steps():
    hooks = hooks_of(Noise(), seed=4)
    hooks.begin(images)
    hooks.after_step()
    state = hooks.state_dict() | {"device": "cuda"}
    state["noise"]["generator"] = torch.zeros(16, dtype=torch.uint8)  # which a CPU cannot take
    other = hooks_of(Noise(), seed=4)
    other.load_state_dict(state)
    other.begin(images)
    found = other._contexts[0].generators[0].initial_seed()
    assert found == child_seed(4, "noise/1")


def test_states_of_other_mitigations_are_refused():
    hooks = hooks_of(Clip())
    with pytest.raises(ValueError, match=r"belongs to the mitigations \['clip'\], .* \['noise'\]"):
        hooks_of(Noise()).load_state_dict(hooks.state_dict())
    with pytest.raises(ValueError, match=r"mitigations \['clip'\], but these are \[\]"):
        require_same_mitigations(hooks.state_dict(), None)
    require_same_mitigations(None, None)


def test_methods_that_do_not_stack_are_refused():
    networks, _, _ = stacked([marker(seed) for seed in range(2)], images())
    with pytest.raises(ValueError, match=r"of one kind, not \[\['noise'\], \[\]\]"):
        Hooks([(Noise(),), (Syre(),)], networks, [0, 1])


def test_stacked_networks_refuse_what_cannot_be_stacked():
    @dataclass(frozen=True, kw_only=True)
    class Alone(Mitigation):
        name: ClassVar[str] = "alone"
        stackable: ClassVar[bool] = False

        def after_step(self, context):
            pass

    networks, _, _ = stacked([marker(0), marker(1)], images())
    with pytest.raises(ValueError, match="alone does not support stacked networks"):
        Hooks([[Alone()], [Alone()]], networks, [0, 1])


@pytest.mark.parametrize(
    ("mitigation", "layers"),
    [(ReDo(every=3), ("fc", "head")), (EffectiveRank(), ()), (CPR(), ())],
)
def test_features_are_recorded_only_for_those_that_read_them(mitigation, layers):
    hooks = hooks_of(mitigation)
    hooks.begin(images)
    assert hooks.all_recorded_layers == layers
