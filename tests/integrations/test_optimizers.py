"""Optimizers of other packages as the base: each is right, or is rejected by name with a remedy."""

import importlib
import inspect
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import plasticity
from plasticity import regularized

PACKAGES = ("lion_pytorch", "schedulefree", "pytorch_optimizer", "timm.optim")

LR, STRENGTH, STEPS = 1e-2, 0.1, 5
ARGUMENTS = {"Ranger21": {"num_iterations": 10}}  # in addition to lr
SHAPES = ((6, 5), (6,), (3, 6))  # matrices and a vector, which some bases decay differently


def load(package):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(package)


def classes():
    """Return every public optimizer class of the installed packages, each once."""
    found = {}
    for package in PACKAGES:
        try:
            module = load(package)
        except ImportError:
            reason = pytest.mark.skip(reason=f"{package} is not installed")
            found[package] = pytest.param(None, marks=reason, id=package)
            continue
        for name, each in sorted(vars(module).items()):
            is_class = inspect.isclass(each) and issubclass(each, torch.optim.Optimizer)
            if is_class and not each.__module__.startswith("torch."):
                found.setdefault(each, pytest.param(each, id=f"{package}-{name}"))
    return list(found.values())


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for shape in SHAPES
    ]


def train(make, closure=False, stretch=1.0):
    """Make five steps, and return the weights and the optimizer.

    The gradients are random, and orthogonal to the weights every other time: some bases (AdamP) then
    project, and decay less.
    """
    weights = parameters()
    optimizer = make(weights)
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()  # required by schedule-free optimizers
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():  # some draw random numbers
        torch.manual_seed(2)
        np.random.seed(2)  # noqa: NPY002
        for step in range(STEPS):
            draws = [
                stretch * torch.randn(shape, generator=generator, dtype=torch.float64)
                for shape in SHAPES
            ]

            if step % 2:
                pairs = [
                    (g.flatten(), w.detach().flatten()) for g, w in zip(draws, weights, strict=True)
                ]
                along = [g @ w / (w @ w) for g, w in pairs]
                draws = [g - a * w.detach() for g, a, w in zip(draws, along, weights, strict=True)]

            def evaluate(draws=draws):
                for weight, draw in zip(weights, draws, strict=True):
                    weight.grad = draw.clone()
                return torch.tensor(1.0)

            if closure:
                optimizer.step(evaluate)
            else:
                evaluate()
                optimizer.step()
    return nn.utils.parameters_to_vector(weights).detach(), optimizer


def plain(base, **settings):
    return lambda weights: base(weights, lr=LR, **ARGUMENTS.get(base.__name__, {}), **settings)


def takes_closure(base):
    """Return whether the base's step needs a closure; skip the base if it cannot step here at all."""
    for closure in (False, True):
        try:
            train(plain(base), closure)
        except Exception as error:  # each reports differently that it needs a model, shapes, …
            reason = f"{base.__name__} does not step with lr alone: {type(error).__name__}"
        else:
            return closure
    return pytest.skip(reason)


def make(base, regularizer, **settings):
    chosen = {"regularizer": regularizer, "strength": STRENGTH} | settings
    arguments = ARGUMENTS.get(base.__name__, {})
    return lambda weights: regularized(base)(weights, lr=LR, **arguments, **chosen)


def assert_same_decay(base, closure, **settings):
    """Assert that syre with an anchor near zero equals weight decay, up to the base's rounding."""
    decayed, _ = train(make(base, "weight-decay", **settings), closure)
    found, _ = train(make(base, "syre", sigma=1e-12, **settings), closure)
    # Bases that decompose matrices (SOAP) amplify the last digit of a gradient.
    other, _ = train(make(base, "weight-decay", **settings), closure, stretch=1 + 1e-14)
    own = (other - decayed).abs().max().item()
    torch.testing.assert_close(found, decayed, rtol=0, atol=1e-6 + 10 * own)  # some use float32


def rejection(make, closure=False):
    """Return the message with which training is rejected, or None."""
    try:
        train(make, closure)
    except ValueError as error:
        return str(error)
    return None


# Messages of schedule-free classes, and torch's deprecations in other packages.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("base", classes())
def test_syre_near_zero_is_weight_decay(base):
    closure = takes_closure(base)
    message = rejection(make(base, "syre", sigma=1e-12), closure)
    if message is None:
        assert_same_decay(base, closure)
        return
    assert base.__name__ in message
    if steps_another(base):
        assert "regularized(" in message
        return
    assert "decoupled=False" in message
    assert_same_decay(base, closure, decoupled=False)  # the remedy in the message


def steps_another(base):
    """Return whether the base makes another optimizer inside, which does not know about ours."""
    return isinstance(getattr(plain(base)(parameters()), "optimizer", None), torch.optim.Optimizer)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("base", classes())
def test_nothing_to_regularize_equals_the_base_without_decay(base):
    """Compare bit for bit, with "none" and with weight decay of strength 0."""
    closure = takes_closure(base)
    if steps_another(base):
        pytest.skip("rejected, as above")
    without = "weight_decay" in inspect.signature(base).parameters
    expected, _ = train(plain(base, **({"weight_decay": 0.0} if without else {})), closure)
    for settings in ({"regularizer": "none"}, {"strength": 0.0}):
        found, _ = train(
            make(base, **{"regularizer": "weight-decay", "strength": 0.0} | settings), closure
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize("regularizer", ["weight-decay", "syre"])
def test_lions_decay_is_separate_from_the_sign(regularizer):
    """Use a zero gradient, which has sign 0: weights of 1 move by lr * strength = 1e-3, not by lr."""
    lion = pytest.importorskip("lion_pytorch").Lion
    weight = nn.Parameter(torch.ones(4, 4))
    sigma = {"sigma": 1e-12} if regularizer == "syre" else {}
    optimizer = make(lion, regularizer, **sigma)([weight])
    weight.grad = torch.zeros(4, 4)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 1 - 1e-3), rtol=0, atol=1e-7)


@pytest.mark.parametrize("regularizer", ["syre", "l2-init"])
def test_a_schedule_free_decay_is_not_guessed(regularizer):
    """Check a base whose decay acts on an average of the weights, so that it has neither form."""
    schedulefree = pytest.importorskip("schedulefree")
    for decoupled in (None, True):
        with pytest.raises(ValueError, match=r"AdamWScheduleFree.*decoupled=False"):
            make(schedulefree.AdamWScheduleFree, regularizer, decoupled=decoupled)(parameters())
    # The base's own decay is available on request, bit for bit.
    found, _ = train(make(schedulefree.AdamWScheduleFree, "weight-decay"))
    expected, _ = train(
        lambda weights: schedulefree.AdamWScheduleFree(weights, lr=LR, weight_decay=STRENGTH)
    )
    assert torch.equal(found, expected)


# ---- settings that some bases need in addition to a learning rate ------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Muon", "AdaMuon", "AdaGO", "NorMuon"])
def test_groups_may_say_whether_to_use_muon(name):
    """Check that the key is passed on, and that keys written by the base are not taken for the user's."""
    base = getattr(pytest.importorskip("pytorch_optimizer"), name)

    def split(make):
        # A vector in a separate group has no fan-in that syre could take over.
        groups = [{"use_muon": True}, {"use_muon": False, "fan_in": 5}, {"use_muon": True}]
        return lambda weights: make(
            [{"params": [w]} | group for w, group in zip(weights, groups, strict=True)]
        )

    expected, _ = train(split(plain(base, weight_decay=STRENGTH, adamw_wd=STRENGTH)))
    decayed, optimizer = train(split(make(base, "weight-decay")))
    assert torch.equal(decayed, expected)
    assert [group["use_muon"] for group in optimizer.param_groups] == [True, False, True]
    message = rejection(split(make(base, "syre", sigma=1e-12)))
    if message is None:
        found, _ = train(split(make(base, "syre", sigma=1e-12)))
    else:
        assert name in message
        assert "decoupled=False" in message
        decayed, _ = train(split(make(base, "weight-decay", decoupled=False)))
        found, _ = train(split(make(base, "syre", sigma=1e-12, decoupled=False)))
    # The orthogonalisation runs in bfloat16 (8 bits), and a step is at most 1e-2.
    torch.testing.assert_close(found, decayed, rtol=0, atol=STEPS * LR / 256)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("pytorch_optimizer", "AdaHessian"),
        ("pytorch_optimizer", "SophiaH"),
        ("timm.optim", "Adahessian"),
    ],
)
def test_bases_that_differentiate_the_gradient(package, name):
    """Check bases that only support their own decay, as a gradient with decay added has no graph."""
    pytest.importorskip(package)
    base = getattr(load(package), name)

    def curved(make):
        weights = parameters()
        optimizer = make(weights)
        torch.manual_seed(2)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = sum((weight**4).sum() for weight in weights)
            loss.backward(create_graph=True)
            optimizer.step()
        return nn.utils.parameters_to_vector(weights).detach()

    expected = curved(plain(base, weight_decay=STRENGTH))
    assert torch.equal(curved(make(base, "weight-decay")), expected)
    for decoupled in (None, False):
        with pytest.raises((RuntimeError, ValueError), match=name):
            curved(make(base, "syre", sigma=0.3, decoupled=decoupled))


# ---- optimizers that step another one ---------------------------------------------------------------


def wrapped(name, base, **settings):
    wrappers = pytest.importorskip("pytorch_optimizer")

    def make(weights):
        if name == "SAM":
            return wrappers.SAM(weights, base_optimizer=base, lr=LR, rho=0.05, **settings)
        return getattr(wrappers, name)(base(weights, lr=LR, **settings))

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Lookahead", "SAM", "OrthoGrad", "TRAC", "Magma"])
def test_optimizers_may_wrap_a_regularized_one(name):
    """Check that sigma 0 equals the wrapper around plain AdamW, bit for bit, and anchors are accessible."""
    closure = name == "SAM"
    adamw = torch.optim.AdamW
    expected, _ = train(wrapped(name, adamw, weight_decay=STRENGTH), closure)
    syre = {"regularizer": "syre", "strength": STRENGTH, "anchor_seed": 3}
    found, _ = train(wrapped(name, regularized(adamw), sigma=0.0, **syre), closure)
    assert torch.equal(found, expected)

    found, optimizer = train(wrapped(name, regularized(adamw), sigma=0.3, **syre), closure)
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for weight in weights:
        assert plasticity.anchor(optimizer, weight).any()
    assert not torch.equal(found, expected)
