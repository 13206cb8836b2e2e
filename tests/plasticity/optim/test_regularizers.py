"""Tests of regularized optimizers against torch's own, one for each known pitfall."""

import copy
import io
import pickle

import cloudpickle
import pytest
import torch
from torch import nn

from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.regularizers import regularized
from plasticity.optim.shifted_model import ShiftedModel

BASES = {
    "SGD": {"lr": 0.05},
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": 0.01},
    "NAdam": {"lr": 0.01},
    "RAdam": {"lr": 0.01},
    "RMSprop": {"lr": 0.01},
    "Adagrad": {"lr": 0.05},
    "Adadelta": {"lr": 0.5},
    "Adamax": {"lr": 0.01},
    "ASGD": {"lr": 0.05},
    "Adafactor": {"lr": 0.05},
}
SYRE = {"regularizer": "syre", "strength": 0.1, "sigma": 0.5, "anchor_seed": 11}
every_base = pytest.mark.parametrize("name", BASES)


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def batches(steps, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(16, 6, generator=generator, dtype=torch.float64).to(dtype)
        yield inputs, torch.randint(0, 3, (16,), generator=generator)


def train(make_optimizer, *, steps=12, with_closure=False, dtype=torch.float32, model=None):
    model = network(dtype) if model is None else model
    optimizer = make_optimizer(model.parameters())
    for inputs, targets in batches(steps, dtype):

        def closure(inputs=inputs, targets=targets):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        if with_closure:
            assert optimizer.step(closure).requires_grad
        else:
            closure()
            optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach(), optimizer


def maker(name, **settings):
    return lambda params: regularized(getattr(torch.optim, name))(params, **BASES[name], **settings)


def plain(name, **settings):
    return lambda params: getattr(torch.optim, name)(params, **BASES[name], **settings)


# ---- bit for bit -------------------------------------------------------------------------------


@every_base
@pytest.mark.parametrize("with_closure", [False, True])
def test_no_regularization_equals_the_base(name, with_closure):
    expected, _ = train(plain(name, weight_decay=0.0), with_closure=with_closure)
    for settings in (
        {},
        {"regularizer": "none"},
        {"regularizer": "syre", "strength": 0.0, "sigma": 0.5},
    ):
        found, _ = train(maker(name, **settings), with_closure=with_closure)
        assert torch.equal(found, expected)


@every_base
@pytest.mark.parametrize("with_closure", [False, True])
def test_zero_anchor_equals_the_bases_own_decay(name, with_closure):
    expected, _ = train(plain(name, weight_decay=0.1), with_closure=with_closure)
    for settings in ({"regularizer": "weight-decay"}, {"regularizer": "syre", "sigma": 0.0}):
        found, _ = train(maker(name, strength=0.1, **settings), with_closure=with_closure)
        assert torch.equal(found, expected)


def test_decoupled_adam_is_adamw_and_coupled_adamw_is_adam():
    settings = {"regularizer": "weight-decay", "strength": 0.1}
    found, _ = train(maker("Adam", decoupled=True, **settings))
    assert torch.equal(found, train(plain("AdamW", weight_decay=0.1))[0])
    found, _ = train(maker("AdamW", decoupled=False, **settings))
    assert torch.equal(found, train(plain("Adam", weight_decay=0.1))[0])


def test_muon_with_its_default_decay():
    parameter = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    other = nn.Parameter(parameter.detach().clone())
    parameter.grad = torch.ones(4, 4)
    other.grad = torch.ones(4, 4)
    torch.optim.Muon([parameter], lr=0.1, weight_decay=0.1).step()
    optimizer = regularized(torch.optim.Muon)(
        [other], lr=0.1, regularizer="weight-decay", strength=0.1
    )
    optimizer.step()
    assert torch.equal(parameter, other)
    assert optimizer.param_groups[0]["decoupled"] is True


def test_default_decay_of_adamw_is_off():
    found, optimizer = train(maker("AdamW"))
    assert torch.equal(found, train(plain("AdamW", weight_decay=0.0))[0])
    assert optimizer.param_groups[0]["weight_decay"] == 0.0


# ---- the formula -------------------------------------------------------------------------------


@every_base
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("anisotropy", [0.0, 0.3])
def test_formula_of_syre(name, decoupled, anisotropy):
    """Compare steps with the base's on gradients decayed by hand, or after decaying the weights by hand."""
    lr = BASES[name]["lr"]
    if name == "Adafactor" and decoupled:  # scales by the norm before its own decay: refused
        pytest.skip("test_base_decay.py")
    settings = {**SYRE, "anisotropy": anisotropy, "decoupled": decoupled}
    model, twin = network(torch.float64), network(torch.float64)
    optimizer = maker(name, **settings)(model.parameters())
    base = plain(name, weight_decay=0.0)(twin.parameters())
    anchors = [optimizer.anchor(p) for p in model.parameters()]
    targets = optimizer._targets_of(0, optimizer.param_groups[0])
    factors = targets.factors(targets.indices) or [1.0] * 4
    for inputs, targets in batches(5, torch.float64):
        for each in (model, twin):
            each.zero_grad()
            nn.functional.cross_entropy(each(inputs), targets).backward()
        with torch.no_grad():
            for p, anchor, factor in zip(twin.parameters(), anchors, factors, strict=True):
                pull = 0.1 * factor * (p - anchor)
                if decoupled:
                    p.sub_(lr * pull)
                else:
                    p.grad.add_(pull)
        base.step()
        optimizer.step()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_anchor_has_the_deviation_of_its_fan_in():
    model = nn.Sequential(nn.Linear(100, 400), nn.Linear(400, 50))
    optimizer = regularized(torch.optim.SGD)(model.parameters(), **SYRE)
    # sigma / sqrt(d): 0.5 / 10 and 0.5 / 20; standard error of n normals: 1 / sqrt(2 n)
    assert optimizer.anchor(model[0].weight).std() == pytest.approx(0.05, rel=5 / 283)
    assert optimizer.anchor(model[1].weight).std() == pytest.approx(0.025, rel=5 / 200)
    assert optimizer.anchor(model[0].bias).std() == pytest.approx(0.05, rel=5 / 28)


def test_gradients_are_restored_after_the_step():
    for name in ("SGD", "Adam"):
        model = network()
        optimizer = maker(name, **SYRE)(model.parameters())
        nn.functional.cross_entropy(model(torch.ones(2, 6)), torch.tensor([0, 1])).backward()
        gradients = [p.grad for p in model.parameters()]
        copies = [g.clone() for g in gradients]
        optimizer.step()
        for p, gradient, value in zip(model.parameters(), gradients, copies, strict=True):
            assert p.grad is gradient
            # one rounding of gradient - 0.1 * anchor, whose size is at most about 1
            torch.testing.assert_close(p.grad, value, rtol=0, atol=2e-7)


def test_decays_to_the_anchor_without_a_gradient_of_the_loss():
    model = network(torch.float64)
    optimizer = regularized(torch.optim.SGD)(model.parameters(), lr=1.0, **SYRE)
    for _ in range(400):  # the distance shrinks by 0.9 a step: 0.9**400 = 5e-19
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    for p in model.parameters():
        torch.testing.assert_close(p.detach(), optimizer.anchor(p), rtol=0, atol=1e-12)


def test_both_forms_of_syre_trace_the_same_path_under_sgd():
    model = network(torch.float64)
    optimizer = regularized(torch.optim.SGD)(model.parameters(), lr=0.1, **SYRE)
    anchors = {name: optimizer.anchor(p) for name, p in model.named_parameters()}
    shifted = ShiftedModel(copy.deepcopy(model), anchors)
    plain_sgd = torch.optim.SGD(shifted.parameters(), lr=0.1, weight_decay=SYRE["strength"])
    for inputs, targets in batches(1000, torch.float64):
        for each, its_optimizer in ((model, optimizer), (shifted, plain_sgd)):
            its_optimizer.zero_grad()
            nn.functional.cross_entropy(each(inputs), targets).backward()
            its_optimizer.step()
    effective = shifted.effective_parameters()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, effective[name], rtol=0, atol=1e-10)


# ---- groups and settings -----------------------------------------------------------------------


def test_different_settings_per_group():
    model = network()
    first, second = model[0], model[2]
    optimizer = regularized(torch.optim.SGD)(
        [
            {"params": first.parameters(), **SYRE},
            {"params": [second.weight], "regularizer": "weight-decay", "strength": 0.01},
            {"params": [second.bias], "regularizer": "none"},
        ],
        lr=0.1,
    )
    start = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    weight, bias, weight_2, bias_2 = model.parameters()
    for p, before in ((weight, start[0]), (bias, start[1])):
        expected = before - 0.1 * 0.1 * (before - optimizer.anchor(p))
        torch.testing.assert_close(p.detach(), expected)
    torch.testing.assert_close(weight_2.detach(), start[2] * (1 - 0.1 * 0.01))
    assert torch.equal(bias_2, start[3])
    assert optimizer.anchor(bias_2) is None
    assert not optimizer.anchor(weight_2).any()


def test_vector_before_any_weight_is_not_decayed_and_reported(caplog):
    log_std = nn.Parameter(torch.ones(3))
    layer = nn.Linear(4, 2)
    optimizer = regularized(torch.optim.SGD)([log_std, *layer.parameters()], lr=1.0, **SYRE)
    assert "not decayed: 1 tensor with 3 parameters" in caplog.text
    for p in (log_std, *layer.parameters()):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(log_std, torch.ones(3))
    assert optimizer.anchor(log_std) is None
    assert optimizer.anchor(layer.bias) is not None


def test_given_fan_in():
    vector = nn.Parameter(torch.zeros(20_000))
    optimizer = regularized(torch.optim.SGD)([{"params": [vector], "fan_in": 4, **SYRE}])
    assert optimizer.anchor(vector).std() == pytest.approx(0.25, rel=5 / 200)
    with pytest.raises(ValueError, match="fan_in has 2 entries for 1 parameters"):
        regularized(torch.optim.SGD)([{"params": [vector], "fan_in": [4, 4], **SYRE}])
    with pytest.raises(TypeError, match=r"fan_in must be an integer, not 2\.5"):
        regularized(torch.optim.SGD)([{"params": [vector], "fan_in": 2.5, **SYRE}])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"regularizer": "sire", "strength": 0.1}, ValueError, "Did you mean 'syre'"),
        ({"regularizer": 3, "strength": 0.1}, TypeError, "regularizer must be a string, not 3"),
        ({"regularizer": "syre", "strength": -0.1}, ValueError, "strength must be .* at least 0"),
        ({"regularizer": "syre", "strength": float("nan")}, ValueError, "strength .* nan"),
        ({"regularizer": "syre", "strength": float("inf")}, ValueError, "strength .* inf"),
        ({"regularizer": "syre", "strength": "1e-3"}, TypeError, "strength must be a number"),
        ({"regularizer": "syre", "strength": True}, TypeError, "strength must be a number"),
        ({"regularizer": "syre"}, ValueError, "needs a strength"),
        ({"strength": 0.1}, ValueError, "does nothing without a regularizer"),
        ({**SYRE, "sigma": -1.0}, ValueError, "sigma must be"),
        ({**SYRE, "anisotropy": 0.5774}, ValueError, r"anisotropy must be .* below 0\.5774"),
        ({**SYRE, "anchor_seed": -1}, ValueError, "anchor_seed must be at least 0"),
        ({**SYRE, "anchor_seed": 2**64}, ValueError, "anchor_seed must be"),
        ({**SYRE, "anchor_seed": 1.5}, TypeError, "anchor_seed must be an integer"),
        ({**SYRE, "decoupled": "yes"}, TypeError, "decoupled must be"),
        ({**SYRE, "weight_decay": 0.1}, ValueError, "weight_decay=0.1 was given .* strength"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        regularized(torch.optim.Adam)(network().parameters(), **settings)
    with pytest.raises(error, match=message):
        regularized(torch.optim.Adam)([{"params": network().parameters(), **settings}])


def test_base_decay_by_position_is_an_error_unless_zero():
    with pytest.raises(ValueError, match=r"weight_decay=0\.2"):
        regularized(torch.optim.SGD)(network().parameters(), 0.1, 0.0, 0.0, 0.2)
    regularized(torch.optim.SGD)(network().parameters(), 0.1, 0.0, 0.0, 0.0)
    regularized(torch.optim.AdamW)(network().parameters(), weight_decay=0)


def test_unknown_group_key_names_the_nearest():
    group = {"params": network().parameters(), "strenght": 0.1}
    with pytest.raises(ValueError, match=r"'strenght'.*Did you mean 'strength'"):
        regularized(torch.optim.Adam)([group])


def test_the_callers_group_is_not_modified():
    group = {"params": list(network().parameters()), **SYRE}
    before = dict(group)
    regularized(torch.optim.Adam)([group])
    assert group == before


@pytest.mark.parametrize("name", ["LBFGS", "Rprop", "SparseAdam"])
def test_refused_bases(name):
    with pytest.raises(ValueError, match=f"{name} cannot be regularized: "):
        regularized(getattr(torch.optim, name))


@pytest.mark.parametrize("wrong", [nn.Linear, "Adam", None, 3])
def test_only_optimizer_classes(wrong):
    with pytest.raises(TypeError, match="takes an optimizer class"):
        regularized(wrong)


def test_one_class_per_base():
    first = regularized(torch.optim.Adam)
    assert regularized(torch.optim.Adam) is first
    assert regularized(first) is first
    assert issubclass(first, torch.optim.Adam)
    assert issubclass(first, RegularizedOptimizer)


@pytest.mark.parametrize("dtype", [torch.complex64])
def test_complex_parameters_are_refused(dtype):
    parameter = nn.Parameter(torch.zeros(2, 2, dtype=dtype))
    with pytest.raises(TypeError, match="Only real floating-point"):
        regularized(torch.optim.SGD)([parameter], **SYRE)


# ---- saving, copying, pickling -----------------------------------------------------------------


def require_same_after(optimizer_of, survive, *, steps=6):
    """Train without interruption and with `survive` applied half-way; the weights must be equal."""
    uninterrupted, _ = train(optimizer_of, steps=2 * steps)
    model = network()
    optimizer = optimizer_of(model.parameters())
    for index, (inputs, targets) in enumerate(batches(2 * steps)):
        if index == steps:
            model, optimizer = survive(model, optimizer)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), uninterrupted)


def by_state_dict(make):
    def survive(model, optimizer):
        file = io.BytesIO()
        torch.save([model.state_dict(), optimizer.state_dict()], file)
        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        fresh = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        fresh.load_state_dict(weights)
        torch.manual_seed(999)  # the seed of a new process
        other = make(fresh.parameters())
        other.load_state_dict(state)
        return fresh, other

    return survive


REGULARIZERS = [
    SYRE,
    {**SYRE, "anisotropy": 0.3},
    {**SYRE, "anchor_seed": None},
    {"regularizer": "l2-init", "strength": 0.1},
    {"regularizer": "weight-decay", "strength": 0.1},
]


@pytest.mark.parametrize("settings", REGULARIZERS, ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_survives_saving_copying_and_pickling(name, settings):
    make = maker(name, **settings)
    require_same_after(make, by_state_dict(make))
    require_same_after(make, lambda *pair: copy.deepcopy(pair))
    require_same_after(make, lambda *pair: pickle.loads(pickle.dumps(pair)))
    require_same_after(make, lambda *pair: cloudpickle.loads(cloudpickle.dumps(pair)))


def test_state_dict_holds_numbers_and_strings_only():
    _, optimizer = train(maker("SGD", **SYRE))
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}  # no copy of the network
    for group in state["param_groups"]:
        for value in group.values():
            assert value is None or isinstance(value, (int, float, str, bool, list))


def test_anchor_seed_is_read_once_without_consuming_randomness():
    torch.manual_seed(77)
    before = torch.get_rng_state()
    settings = {**SYRE, "anchor_seed": None}
    optimizer = regularized(torch.optim.SGD)([nn.Parameter(torch.zeros(2, 2))], **settings)
    assert torch.equal(torch.get_rng_state(), before)
    assert optimizer.param_groups[0]["anchor_seed"] == 77


def test_only_groups_with_random_anchors_store_the_seed_that_was_read():
    groups = [
        {"params": [nn.Parameter(torch.zeros(2, 2))], "regularizer": name, "strength": 0.1}
        for name in ("syre", "weight-decay", "l2-init")
    ]
    groups.append({"params": [nn.Parameter(torch.zeros(2, 2))], "regularizer": "none"})
    torch.manual_seed(77)
    optimizer = regularized(torch.optim.SGD)(groups, lr=0.1)
    state = optimizer.state_dict()
    assert [group["anchor_seed"] for group in state["param_groups"]] == [77, None, None, None]
    twin = regularized(torch.optim.SGD)(groups, lr=0.1, anchor_seed=5)
    twin.load_state_dict(state)
    for each in (optimizer, twin):
        each.param_groups[1].update(regularizer="syre", sigma=1.0)  # a user's edit
        assert each.anchor(groups[1]["params"][0]).any()
    assert optimizer.param_groups[1]["anchor_seed"] == 77
    # Settings that are kept on loading draw from this optimizer's seed if the saved ones drew nothing.
    syre = regularized(torch.optim.SGD)(groups[1]["params"], lr=0.1, **SYRE)
    saved = regularized(torch.optim.SGD)(groups[1]["params"], lr=0.1).state_dict()
    syre.load_state_dict(saved, keep_settings=True)
    assert syre.param_groups[0]["anchor_seed"] == SYRE["anchor_seed"]


def test_state_of_the_plain_base_loads_and_keeps_the_settings():
    _, base = train(plain("Adam", weight_decay=0.3))
    optimizer = maker("Adam", **SYRE)(network().parameters())
    optimizer.load_state_dict(base.state_dict())
    group = optimizer.param_groups[0]
    assert {key: group[key] for key in SYRE} == SYRE
    assert group["weight_decay"] == 0.1  # the base's part of our decay, not the saved one
    first = next(iter(base.state.values()))
    assert torch.equal(next(iter(optimizer.state.values()))["exp_avg"], first["exp_avg"])


def test_state_loads_into_the_plain_base():
    _, optimizer = train(maker("Adam", **SYRE))
    base = plain("Adam")(network().parameters())
    base.load_state_dict(optimizer.state_dict())
    assert base.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()


def test_loading_restores_settings_and_checks_them():
    _, optimizer = train(maker("SGD", **SYRE))
    state = optimizer.state_dict()
    other = maker("SGD")(network().parameters())
    other.load_state_dict(state)
    assert other.param_groups[0]["sigma"] == 0.5
    state["param_groups"][0]["strength"] = -1.0
    with pytest.raises(ValueError, match="strength"):
        other.load_state_dict(state)


def test_add_param_group_continues_the_positions():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    at_once = regularized(torch.optim.SGD)([*first.parameters(), *second.parameters()], **SYRE)
    later = regularized(torch.optim.SGD)(first.parameters(), **SYRE)
    later.add_param_group({"params": second.parameters()})
    for parameter in (*first.parameters(), *second.parameters()):
        assert torch.equal(at_once.anchor(parameter), later.anchor(parameter))


def test_parameters_without_a_gradient_are_not_decayed():
    model = network()
    frozen = model[0].weight.detach().clone()
    optimizer = maker("Adam", **SYRE)(model.parameters())
    for step in range(3):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        model[0].weight.grad = None
        optimizer.step()
        assert torch.equal(model[0].weight, frozen), step
    assert optimizer.anchor(model[0].weight) is not None


def test_changed_settings_take_effect():
    model = network()
    optimizer = maker("SGD", **SYRE)(model.parameters())
    old = optimizer.anchor(model[0].weight)
    optimizer.param_groups[0]["sigma"] = 1.0
    torch.testing.assert_close(optimizer.anchor(model[0].weight), 2 * old)
    optimizer.param_groups[0]["regularizer"] = "l2-init"
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with pytest.raises(RuntimeError, match="switched to l2-init after it was added"):
        optimizer.step()


def test_anchors_follow_the_parameters_dtype():
    model = network()
    optimizer = maker("SGD", **SYRE)(model.parameters())
    single = optimizer.anchor(model[0].weight)
    model.double()
    assert optimizer.anchor(model[0].weight).dtype == torch.float64
    torch.testing.assert_close(optimizer.anchor(model[0].weight).float(), single)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_maximize_follows_the_sign(name):
    """Compare maximizing -loss with minimizing loss, both with a decay."""

    def run(maximize):
        model = network()
        optimizer = maker(name, maximize=maximize, **SYRE)(model.parameters())
        for inputs, targets in batches(8):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            (-loss if maximize else loss).backward()
            optimizer.step()
        return nn.utils.parameters_to_vector(model.parameters())

    torch.testing.assert_close(run(True), run(False), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_grad_scaler_with_a_fused_optimizer(name, momentum):
    extra = {"momentum": momentum} if name == "SGD" else {}
    settings = {**SYRE, "fused": True, **extra}

    def run(scaled):
        model = network()
        optimizer = maker(name, **settings)(model.parameters())
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1024.0)
        for step, (inputs, targets) in enumerate(batches(6)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            if scaled and step == 3:
                # an overflow: the step must change nothing, the decay included
                before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
                scaler.scale(loss * float("inf")).backward()
                scaler.step(optimizer)
                after = nn.utils.parameters_to_vector(model.parameters())
                assert torch.equal(after, before)
                scaler.update(1024.0)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update(1024.0)
        return nn.utils.parameters_to_vector(model.parameters())

    torch.testing.assert_close(run(True), run(False), rtol=1e-5, atol=1e-6)


def test_step_hooks_run_once_and_see_plain_gradients():
    plain("Adam")(network().parameters())  # now torch has wrapped Adam's step
    model = network()
    optimizer = maker("Adam", **SYRE)(model.parameters())
    calls = []
    optimizer.register_step_pre_hook(
        lambda *_: calls.append(model[0].weight.grad.abs().max().item())
    )
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    assert calls == [0.5]


def test_learning_rate_schedulers():
    model = network()
    optimizer = maker("SGD", **SYRE)(model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = model[0].weight.detach().clone()
    lr = optimizer.param_groups[0]["lr"]
    optimizer.step()
    expected = before - lr * 0.1 * (before - optimizer.anchor(model[0].weight))
    torch.testing.assert_close(model[0].weight.detach(), expected)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] != lr


@pytest.mark.parametrize("name", ["Adam", "SGD"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_learning_rate_as_a_tensor(name, decoupled):
    settings = {**SYRE, "decoupled": decoupled}
    expected, _ = train(maker(name, **settings))

    def with_tensor(params):
        optimizer = maker(name, **settings, foreach=True)(params)
        optimizer.param_groups[0]["lr"] = torch.tensor(BASES[name]["lr"])
        return optimizer

    if name == "Adam":
        with pytest.raises(ValueError, match="lr as a Tensor"):
            maker(name, **{**settings, "foreach": True})(network().parameters()).__class__(
                network().parameters(), lr=torch.tensor(0.01), foreach=True
            )
        return
    found, _ = train(with_tensor)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_sparse_gradients():
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    momentum_sgd = regularized(torch.optim.SGD)(
        table.parameters(), momentum=0.9, decoupled=False, **SYRE
    )
    with pytest.raises(RuntimeError, match="sparse gradient: give decoupled=True"):
        momentum_sgd.step()
    regularized(torch.optim.SGD)(table.parameters(), decoupled=True, **SYRE).step()


def test_differentiable_step_is_refused():
    with pytest.raises(ValueError, match="differentiable=True cannot be regularized"):
        regularized(torch.optim.SGD)(network().parameters(), differentiable=True, **SYRE)


# torch's compiler still calls functions that torch deprecated
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_compiled_step_agrees(name, decoupled):
    settings = {**SYRE, "decoupled": decoupled}
    expected, _ = train(maker(name, **settings), steps=4)
    model = network()
    optimizer = maker(name, **settings)(model.parameters())
    torch._dynamo.reset()
    step = torch.compile(optimizer.step, backend="aot_eager")
    for inputs, targets in batches(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        step()
    found = nn.utils.parameters_to_vector(model.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


class Momentum(torch.optim.SGD):
    """Base outside torch, for the tests of pickling."""


class WithoutDecay(torch.optim.Optimizer):
    """Base without a decay."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad)


def test_base_outside_torch():
    start = torch.ones(2, 2)
    parameter = nn.Parameter(start.clone())
    optimizer = regularized(WithoutDecay)([parameter], lr=0.5, **SYRE)
    parameter.grad = torch.ones(2, 2)
    optimizer.step()
    expected = start - 0.5 * (1 + 0.1 * (start - optimizer.anchor(parameter)))
    torch.testing.assert_close(parameter.detach(), expected)


def test_class_of_a_base_outside_torch_is_found_by_name():
    import sys

    import plasticity.optim.regularizers as module

    made = regularized(Momentum)
    sys.modules[Momentum.__module__] = sys.modules[__name__]  # importlib mode hides test modules
    assert getattr(module, made.__name__) is made
    with pytest.raises(AttributeError, match="no attribute 'RegularizedNothing'"):
        _ = module.RegularizedNothing


# ---- gradients that must not be written to, and other pitfalls ---------------------------------


class Rows(nn.Module):
    """Module whose two parameters get the same gradient tensor from autograd."""

    def __init__(self):
        super().__init__()
        self.row = nn.Parameter(torch.full((6, 4), 0.5))
        self.column = nn.Parameter(torch.full((6, 4), 0.5))

    def forward(self):
        return self.row.unsqueeze(0) + self.column.unsqueeze(0)


@pytest.mark.parametrize("separate_groups", [False, True])
def test_parameters_that_share_a_gradient(separate_groups):
    model = Rows()
    groups = (
        [{"params": [p]} for p in model.parameters()] if separate_groups else model.parameters()
    )
    optimizer = regularized(torch.optim.SGD)(groups, lr=0.1, momentum=0.9, **SYRE)
    for _ in range(3000):
        optimizer.zero_grad()
        (model() * 0).sum().backward()
        optimizer.step()
        assert not model.row.grad.any()
    for parameter in model.parameters():
        torch.testing.assert_close(
            parameter.detach(), optimizer.anchor(parameter), atol=1e-5, rtol=0
        )


def frozen_gradient(kind):
    if kind == "expanded":
        return torch.ones(1, 1).expand(3, 3)
    with torch.inference_mode():
        return torch.ones(3, 3)


@pytest.mark.parametrize("kind", ["expanded", "inference"])
def test_gradients_that_cannot_be_written_to(kind):
    parameter, twin = (nn.Parameter(torch.full((3, 3), 2.0)) for _ in range(2))
    parameter.grad = frozen_gradient(kind)
    optimizer = maker("Adam", **SYRE)([parameter])
    optimizer.step()
    twin.grad = torch.ones(3, 3) + 0.1 * (2.0 - optimizer.anchor(parameter))
    plain("Adam")([twin]).step()
    torch.testing.assert_close(parameter, twin)


def test_half_precision_gradients_are_restored_exactly():
    parameter = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    parameter.grad = torch.full((4, 4), 1e-6, dtype=torch.bfloat16)
    before = parameter.grad.clone()
    maker("Adam", **SYRE)([parameter]).step()
    assert torch.equal(parameter.grad, before)


class Sign(torch.optim.Optimizer):
    """Base outside torch whose weight decay is decoupled, and off by default."""

    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * p.grad)


def test_decay_of_a_base_outside_torch_is_not_split():
    parameter = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
    optimizer = regularized(Sign)([parameter], lr=0.1, **SYRE)
    anchor = optimizer.anchor(parameter)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    expected = 1 - 0.1 * 0.1 * (1 - anchor)  # the coupled form, all of it through the gradient
    torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_decay_is_not_lost_to_rounding(dtype):
    """Compare both ways to apply a decay that is small beside the gradient, under plain SGD."""

    def moved(**settings):
        torch.manual_seed(0)
        parameter = nn.Parameter(torch.ones(500, 200, dtype=dtype))
        optimizer = regularized(torch.optim.SGD)([parameter], lr=1e-3, strength=1e-5, **settings)
        for _ in range(20):
            parameter.grad = torch.randn(500, 200).to(dtype)
            optimizer.step()
        return parameter.detach().double()

    nearly_zero = {"regularizer": "syre", "sigma": 1e-9, "anchor_seed": 1}
    torch.testing.assert_close(moved(**nearly_zero), moved(regularizer="weight-decay"))


def test_numpy_numbers_become_plain_ones():
    np = pytest.importorskip("numpy")
    model = network()
    settings = {**SYRE, "strength": np.float64(0.1), "anchor_seed": np.int64(3)}
    optimizer = maker("SGD", **settings)(model.parameters())
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["param_groups"][0]["strength"] == 0.1


def one_step(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("regularizer", "l2init", "Did you mean 'l2-init'"),
        ("strength", -1.0, "strength must be"),
        ("weight_decay", 0.5, r"weight_decay=0\.5 was given"),
    ],
)
def test_edits_of_a_group_are_checked(key, value, message):
    optimizer = maker("Adam", **SYRE)(network().parameters())
    one_step(optimizer)
    optimizer.param_groups[0][key] = value
    with pytest.raises(ValueError, match=message):
        one_step(optimizer)


def test_groups_that_are_edited_from_outside():
    first, second = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.full((2, 2), 7.0))
    settings = {"regularizer": "l2-init", "strength": 0.1}
    optimizer = maker("SGD", **settings)([{"params": [first]}, {"params": [second]}])
    one_step(optimizer)
    del optimizer.param_groups[0]
    assert torch.equal(optimizer.anchor(second), torch.full((2, 2), 7.0))
    syre = maker("SGD", **SYRE)([{"params": [first]}, {"params": [second]}])
    anchor = syre.anchor(second)
    del syre.param_groups[0]
    assert torch.equal(syre.anchor(second), anchor)
    optimizer.param_groups[0]["params"].append(first)
    with pytest.raises(ValueError, match="add others with add_param_group"):
        one_step(optimizer)


def test_no_half_decay_is_left_for_the_plain_base():
    _, optimizer = train(maker("Adam", **SYRE))
    assert optimizer.state_dict()["param_groups"][0]["weight_decay"] == 0.0
    _, decayed = train(maker("Adam", regularizer="weight-decay", strength=0.1))
    assert decayed.state_dict()["param_groups"][0]["weight_decay"] == 0.1


class Twice(torch.optim.SGD):
    """Base that evaluates its closure twice."""

    def step(self, closure=None):
        closure()
        return super().step(closure)


def test_closure_that_runs_twice_and_accumulates():
    parameter = nn.Parameter(torch.ones(1, 3))
    optimizer = regularized(Twice)([parameter], lr=0.1, momentum=0.9, **SYRE)

    def closure():
        loss = (2 * parameter).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(parameter.grad, torch.full((1, 3), 4.0))


class Keywords(torch.optim.AdamW):
    """Base that passes its arguments on."""

    def __init__(self, params, **options):
        super().__init__(params, **options)


def test_base_decay_through_keywords_is_an_error():
    with pytest.raises(ValueError, match=r"weight_decay=0\.1 was given"):
        regularized(Keywords)(network().parameters(), **SYRE, weight_decay=0.1)


def test_misspelt_argument_names_the_nearest():
    with pytest.raises(TypeError, match="Did you mean 'strength'"):
        regularized(torch.optim.Adam)(network().parameters(), strenght=0.1)


devices = [
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    ),
    pytest.param(
        "mps",
        marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs mps"),
    ),
]


@pytest.mark.parametrize("device", devices)
def test_anchors_follow_the_parameters_device(device):
    model = network()
    optimizer = maker("Adam", **SYRE)(model.parameters())
    here = optimizer.anchor(model[0].weight)
    model.to(device)
    there = optimizer.anchor(model[0].weight)
    assert there.device.type == device
    torch.testing.assert_close(there.cpu(), here, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_captured_step():
    model, twin = network().cuda(), network().cuda()
    settings = {**SYRE, "capturable": True}
    optimizer, other = (maker("Adam", **settings)(m.parameters()) for m in (model, twin))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for _ in range(3):
        graph.replay()
    for _ in range(4):
        other.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
