"""Figure overhead: what is timed and held, exact resume of the times, and the verdict on made-up results."""

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict

from plasticity.agents.networks import MLP, ResNet, ViT
from plasticity.mitigations import Syre
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce import overhead
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.overhead import TimedNetworks, TimedTraining
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["overhead"]


def made(model="mlp", **changes):
    values = {
        "stream.num_steps": 3,
        "stream.batch_size": 4,
        "agent.model": model,
        "agent.mlp_width": 16,
        "agent.resnet_width": 1,
        "agent.vit_width": 8,
        "agent.vit_depth": 1,
        "tracking.measure_every": 3,
        "method": (Syre(strength=0.001, sigma=0.3),),
        "seed": 3,
    }
    return with_values(FIGURE.config, values | changes)


def start(model="mlp", **changes):
    return TimedNetworks([made(model, **changes)], stacked=False)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a copy of the network moves on by its own time."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    made_up = Clock()
    monkeypatch.setattr(overhead.time, "process_time", made_up)
    return made_up


def test_networks():
    sizes = {"mlp_width": 32, "resnet_width": 4, "vit_width": 24, "vit_depth": 3}
    networks = {m: TimedTraining(model=m, **sizes).network for m in ("mlp", "resnet", "vit")}
    assert networks["mlp"] == MLP(hidden=(32, 32))
    assert networks["resnet"] == ResNet(width=4)
    assert networks["vit"] == ViT(width=24, depth=3, heads=8)
    with pytest.raises(ValueError, match="Did you mean 'mlp'"):
        TimedTraining(model="mpl")


def test_the_ratio_is_the_median_of_those_of_each_round(clock):
    experiment = start("resnet")
    turns = {
        "plain": iter([1.0, 2, 4]),
        "syre": iter([1.1, 2.4, 4.0]),
        "control": iter([2.0, 2, 4]),
    }
    for name, seconds in turns.items():

        def take(seconds=seconds):
            clock.now += next(seconds)

        experiment.sides[name] = take
    ((_, row),) = experiment.next_rows(lambda: False).items()
    # 1.1, 1.2 and 1; 2, 1 and 1
    assert row["time_ratio"] == pytest.approx(1.1)
    assert row["control_ratio"] == pytest.approx(1.0)
    assert row["milliseconds_plain"] == pytest.approx(2000)
    assert row["milliseconds_syre"] == pytest.approx(2400)
    assert experiment.is_finished(0)


def test_a_turn_of_the_mlp_is_ten_steps(clock):
    experiment = start()
    calls = []
    experiment.sides = {name: lambda name=name: calls.append(name) for name in experiment.sides}
    experiment.step()
    assert calls == ["plain"] * 10 + ["syre"] * 10 + ["control"] * 10


def test_the_copies_learn_and_only_one_has_an_anchor():
    experiment = start(**{"method": (Syre(strength=10.0, sigma=1.0),)})
    networks = {name: side.args[0] for name, side in experiment.sides.items()}
    for _ in range(3):
        experiment.step()
    weights = {name: each.fc1.weight for name, each in networks.items()}
    assert torch.equal(weights["plain"], weights["control"])
    assert not torch.allclose(weights["plain"], weights["syre"], atol=1e-3)


def test_the_memory_of_syre_is_an_anchor_more():
    experiment = start(**{"agent.mlp_width": 256, "stream.batch_size": 2})
    parameters = 3072 * 256 + 256 + 256 * 256 + 256 + 2560 + 10
    # The anchor of 4 bytes for each parameter, beside weights, gradients, and two moments of Adam.
    more = experiment.peaks["syre"] - experiment.peaks["plain"]
    assert more == pytest.approx(4 * parameters, rel=0.05)
    assert experiment.peaks["plain"] == pytest.approx(4 * 4 * parameters, rel=0.1)
    assert experiment.peaks["control"] == pytest.approx(experiment.peaks["plain"], rel=0.01)
    expected = experiment.peaks["syre"] / experiment.peaks["plain"]
    experiment.step()
    assert experiment.measure(0)["memory_ratio"] == expected


@pytest.mark.parametrize("model", ["resnet", "vit"])
def test_the_times_are_continued(model):
    first, second = start(model), start(model)
    first.next_rows(lambda: first.steps == 2)
    second.load_state_dict(0, first.state_dicts([0])[0])
    assert second.times == first.times
    assert [len(each) for each in second.times.values()] == [2, 2, 2]
    assert second.next_rows(lambda: False)[0]["step"] == 3


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    return {"time_ratio": 1.1, "control_ratio": 1.01, "memory_ratio": 1.05}


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert (len(found.requirements), len(found.claims)) == (18, 18)


@pytest.mark.parametrize(("metric", "first"), [("time_ratio", 0), ("memory_ratio", 9)])
def test_one_network_at_one_batch_may_cost_more(metric, first):
    def values(arm, step):
        costs_more = arm.settings == {"model": "resnet", "batch-size": 512}
        return as_claimed(arm, step) | ({metric: 1.25} if costs_more else {})

    found = made_verdict(FIGURE, values)
    assert found.outcome == PARTLY
    assert failed_claims(found) == [first + 5]


@pytest.mark.parametrize("ratio", [0.9, 1.06])
def test_a_measurement_that_cannot_tell_means_nothing(ratio):
    found = made_verdict(FIGURE, lambda arm, step: as_claimed(arm, step) | {"control_ratio": ratio})
    assert found.outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed)
    assert FIGURE.sentence(found).startswith(
        "mlp: time times 1.100 [1.100, 1.100] at batch 128 and"
    )
    ((times, control, memory),) = FIGURE.panels(found)
    assert [line.label for line in times.lines] == ["mlp", "resnet", "vit"]
    assert times.lines[1].positions.tolist() == [128, 256, 512]
    assert control.lines[0].mean.tolist() == pytest.approx([1.01] * 3, rel=1e-3)
    assert memory.lines[2].mean.tolist() == pytest.approx([1.05] * 3, rel=1e-3)
    FIGURE.draw(found, "caption")
