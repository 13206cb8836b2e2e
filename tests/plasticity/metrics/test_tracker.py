"""Tests of Tracker: the contents of rows, where they are written, and that training is not disturbed."""

import copy
import json
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.tensorboard import SummaryWriter

from plasticity.metrics import ranks
from plasticity.metrics.dormancy import dead_fraction, dormant_fraction
from plasticity.metrics.gradients import ntk_rank
from plasticity.metrics.norms import feature_norm, weight_norm
from plasticity.metrics.ranks import rank_summary
from plasticity.metrics.registry import DEFAULT_METRICS, METRICS, Metric, metric_key
from plasticity.metrics.tracker import Tracker

RANKS = (
    "effective_rank",
    "srank",
    "approximate_rank",
    "stable_rank",
    "numerical_rank",
    "feature_rank",
)

UNLABELLED = [name for name, metric in METRICS.items() if metric.kind != "loss"]
"""Metrics that need no labels."""


class Network(nn.Module):
    """Small network that contains everything that measuring could disturb."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.fc1 = nn.Linear(64, 12)
        self.act = nn.Tanh()
        self.fc2 = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x))).flatten(1)
        return self.fc2(self.act(self.fc1(self.drop(x))))


def images(seed: int, count: int = 20) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def probe() -> Tensor:
    return images(1)


def sequential(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def trained(probe: Tensor, *, tracked: bool, directory=None) -> dict[str, Tensor]:
    torch.manual_seed(3)
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tracker = None
    if tracked:
        tracker = Tracker(
            model, probe, UNLABELLED, log_dir=directory, path=directory / "rows.jsonl"
        )
    for step in range(12):
        inputs, labels = images(step), torch.randint(3, (20,))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        if tracker and step % 3 == 0:
            tracker.measure()  # a backward pass is still to come
        loss.backward()
        if tracker and step % 4 == 0:
            tracker.boundary(task=step // 4)
        optimizer.step()
    if tracker:
        tracker.close()
    return {**model.state_dict(), "random": torch.rand(3)}


def test_training_is_the_same_bit_for_bit(probe, tmp_path):
    plain = trained(probe, tracked=False)
    tracked = trained(probe, tracked=True, directory=tmp_path)
    assert plain.keys() == tracked.keys()
    for name, value in plain.items():
        assert torch.equal(value, tracked[name]), name
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3


def test_flags_buffers_gradients_and_random_state_are_restored(model, probe):
    model.norm.eval()  # frozen, in a model in training mode
    F.cross_entropy(model(probe), torch.zeros(20, dtype=torch.long)).backward()
    flags = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    gradients = [(parameter.grad, parameter.grad.clone()) for parameter in model.parameters()]
    random = torch.get_rng_state()
    Tracker(model, probe, UNLABELLED).boundary(task=0)
    assert [module.training for module in model.modules()] == flags
    assert flags.count(False) == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    for parameter, (gradient, value) in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, value)
    assert torch.equal(torch.get_rng_state(), random)


class Restless(nn.Module):
    """Module that changes all state it can in a forward pass, in any mode; fails on demand."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 4)
        self.fails = False
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(3))
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.replaced = torch.randn(3)
        x *= 2
        self.was_training, self.had_gradients = self.training, torch.is_grad_enabled()
        self.train()
        if self.fails:
            raise RuntimeError("on demand")
        return F.relu(self.fc(x) * self.scale)


@pytest.mark.parametrize("fails", [False, True])
def test_restless_model_is_restored(fails):
    model = Restless()
    probe = 3 * torch.randn(6, 5)
    tracker = Tracker(model, probe)
    first = tracker.measure()
    model.eval()
    model.fc.train()
    replaced = model.replaced
    random = torch.get_rng_state()
    loss = (model.fc(probe) * model.scale).sum()
    model.fails = fails
    if fails:
        with pytest.raises(RuntimeError, match="on demand"):
            tracker.measure()
    else:
        # The network doubled a copy of the probe; otherwise its features would have grown.
        assert tracker.measure() == first
    assert not model.was_training
    assert not model.had_gradients
    assert (model.training, model.fc.training) == (False, True)
    assert model.calls == 0
    assert model.replaced is replaced
    assert torch.equal(replaced, torch.zeros(3))
    assert torch.equal(torch.get_rng_state(), random)
    loss.backward()  # an error in torch if the unchanged `scale` had been written to
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_keys_are_ordered_by_metric_then_as_in_the_network(model, probe):
    measured = Tracker(
        model, probe, ["weight_norm", "srank", "dead_fraction", "effective_rank"]
    ).measure()
    weights = ["conv", "norm", "fc1", "fc2", "total"]
    assert list(measured) == [
        *(f"weight_norm/{layer}" for layer in weights),
        "srank/relu", "srank/act", "dead_fraction/relu", "dead_fraction/act",
        "effective_rank/relu", "effective_rank/act",
    ]  # fmt: skip
    assert all(type(value) is float for value in measured.values())


def test_numbers_equal_those_of_the_functions(model, probe):
    measured = Tracker(model, probe, layers=["act", "conv"]).measure()
    model.eval()
    with torch.no_grad():
        maps = model.conv(probe)  # (20, 4, 4, 4): one unit per channel, 20 × 16 rows
        flat = F.relu(model.norm(maps)).flatten(1)
        features = {
            "conv": torch.stack([maps[:, channel].flatten() for channel in range(4)], 1),
            "act": model.fc1(flat).tanh(),
        }
        expected = {}
        for layer, matrix in features.items():
            values = {
                **rank_summary(matrix),
                "dead_fraction": dead_fraction(matrix),
                "dormant_fraction": dormant_fraction(matrix),
                "feature_norm": feature_norm(matrix),
            }
            expected.update({f"{name}/{layer}": float(value) for name, value in values.items()})
        expected.update(
            {f"weight_norm/{layer}": float(v) for layer, v in weight_norm(model).items()}
        )
    assert measured == expected


def test_default_metrics_are_known_and_described():
    assert set(DEFAULT_METRICS) <= set(METRICS)
    assert set(RANKS) <= set(DEFAULT_METRICS)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.description


def test_functional_names_include_their_count():
    class Twice(nn.Module):
        def forward(self, x):
            return F.relu(F.relu(x) - 0.5)

    measured = Tracker(Twice(), torch.rand(6, 3), ["dead_fraction"]).measure()
    assert list(measured) == ["dead_fraction/relu", "dead_fraction/relu-2"]


def test_ranks_share_one_decomposition_per_shape(monkeypatch):
    model = sequential()
    tracker = Tracker(model, torch.randn(16, 5), RANKS)
    alone = Tracker(model, torch.randn(16, 5), RANKS, layers=["3"])
    shapes = []
    original = ranks.rank_summary

    def counted(features, **arguments):
        shapes.append(tuple(features.shape))
        return original(features, **arguments)

    monkeypatch.setattr(ranks, "rank_summary", counted)
    assert len(tracker.measure()) == 2 * len(RANKS)
    assert shapes == [(2, 16, 8)]
    assert len(alone.measure()) == len(RANKS)
    assert shapes[1:] == [(1, 16, 8)]


class HostReads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_host_synchronizes_only_for_the_check_of_the_ranks():
    # `tolist` reads once, below the dispatcher; each `bool`, `float` and `item` would be counted here.
    # A pass that traces the units reads whether weights and data are finite or equal.
    others = [name for name in UNLABELLED if name not in RANKS and METRICS[name].kind != "pass"]
    tracker = Tracker(sequential(), torch.randn(16, 5), others)
    with HostReads() as reads:
        tracker.measure()
    assert reads.count == 0
    tracker = Tracker(sequential(), torch.randn(16, 5), [*others, *RANKS])
    with HostReads() as reads:
        tracker.measure()
    assert reads.count == 1  # one group of layers of one shape


def test_custom_metrics():
    model, probe = sequential(), torch.randn(16, 5)
    metrics = [
        Metric("saturated_fraction", partial(dead_fraction, saturating=True), "features"),
        # A custom metric may have the name of a built-in one.
        Metric(
            "effective_rank", lambda features: features.new_tensor(features.shape[1]), "features"
        ),
        Metric("ntk_rank", lambda model: ntk_rank(model, probe[:3]), "model"),
        Metric("depth", lambda model: {"all": torch.tensor(len(model))}, "model"),
    ]
    measured = Tracker(model, probe, [*metrics, "srank"]).measure()
    assert list(measured) == [
        "saturated_fraction/1", "saturated_fraction/3", "effective_rank/1", "effective_rank/3", "ntk_rank",
        "depth/all", "srank/1", "srank/3",
    ]  # fmt: skip
    assert measured["effective_rank/1"] == 8
    assert measured["ntk_rank"] == float(ntk_rank(model, probe[:3]))
    assert measured["depth/all"] == 5


def test_metric_of_the_model_may_use_gradients():
    model, probe = sequential(), torch.randn(16, 5)

    def sharpness(model):
        (gradient,) = torch.autograd.grad(model(probe).square().sum(), [model[0].weight])
        return gradient.norm()

    measured = Tracker(model, probe, [Metric("sharpness", sharpness, "model")]).measure()
    assert measured["sharpness"] > 0
    assert model[0].weight.grad is None


@pytest.mark.parametrize("value", [1.0, torch.ones(2), None])
def test_custom_metric_must_return_one_number(value):
    tracker = Tracker(
        sequential(), torch.randn(6, 5), [Metric("mine", lambda _features: value, "features")]
    )
    with pytest.raises(ValueError, match=r"metric 'mine/1' returned a .* expected one number"):
        tracker.measure()


def test_update_norm_refers_to_the_previous_boundary():
    model = sequential()
    tracker = Tracker(model, torch.randn(6, 5), ["update_norm"])
    assert tracker.measure() == {}
    assert tracker.boundary(task=0) == {"task": 0, "diverged": False}
    with torch.no_grad():
        model[0].bias += 0.5  # 8 entries: 0.5 √8
        model[4].weight -= 2  # 2 × 8 entries: 2 √16 = 8
    expected = {
        "update_norm/0": 0.5 * math.sqrt(8),
        "update_norm/2": 0.0,
        "update_norm/4": 8.0,
        "update_norm/total": math.sqrt(2 + 64),
    }
    assert tracker.measure() == pytest.approx(expected, rel=1e-6)
    row = tracker.boundary(task=1)
    assert row == pytest.approx({"task": 1, **expected, "diverged": False}, rel=1e-6)
    assert tracker.boundary(task=2)["update_norm/total"] == 0


def test_gradient_norm_is_that_of_the_last_backward_pass():
    model = sequential()
    tracker = Tracker(model, torch.randn(6, 5), ["gradient_norm"])
    assert tracker.measure() == {"gradient_norm/total": 0}
    model[4].bias.grad = torch.tensor([3.0, 4.0])
    assert tracker.measure() == {"gradient_norm/4": 5, "gradient_norm/total": 5}


def diverged() -> nn.Sequential:
    model = sequential()
    with torch.no_grad():
        model[2].bias[3] = torch.nan
    return model


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    tracker = Tracker(diverged(), torch.randn(6, 5), ["dead_fraction"], path=path)
    with pytest.warns(RuntimeWarning, match="diverged"):
        row = tracker.boundary(task=0, loss=math.inf)
    assert row["loss"] == math.inf
    assert math.isnan(row["dead_fraction/3"])
    (line,) = path.read_text().splitlines()
    written = json.loads(line)
    assert written["loss"] is None
    assert written["dead_fraction/3"] is None
    assert written["dead_fraction/1"] == row["dead_fraction/1"]


def test_rows_are_kept_and_appended(tmp_path):
    path = tmp_path / "made" / "rows.jsonl"
    model, probe = sequential(), torch.randn(6, 5)
    tracker = Tracker(model, probe, ["srank"], path=path)
    first = tracker.boundary(
        np.int64(0), accuracy=np.float32(0.5), steps=7, loss=torch.tensor(0.25, requires_grad=True)
    )
    extra = {"accuracy": 0.5, "steps": 7, "loss": 0.25}
    assert first == {"task": 0, **extra, **tracker.measure(), "diverged": False}
    assert list(first) == ["task", *extra, "srank/1", "srank/3", "diverged"]
    again = Tracker(model, probe, ["srank"], path=str(path))
    second = again.boundary(task=1)
    assert tracker.rows == [first]
    assert again.rows == [second]
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [first, second]
    assert lines[0].startswith('{"task": 0, "accuracy": 0.5, "steps": 7, "loss": 0.25, "srank/1": ')


def test_nothing_is_written_without_a_destination(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Tracker(sequential(), torch.randn(6, 5)).boundary(task=0)
    assert list(tmp_path.iterdir()) == []


def scalars(directory) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(directory))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_tensorboard_holds_the_rows(tmp_path):
    class Twice(nn.Module):
        def forward(self, x):
            return F.relu(F.relu(x) - 0.5)

    with Tracker(
        Twice(), torch.rand(6, 3), ["dead_fraction", "effective_rank"], log_dir=tmp_path
    ) as tracker:
        first = tracker.boundary(task=0, accuracy=0.5)
        second = tracker.boundary(task=3, accuracy=0.75)
        assert len(scalars(tmp_path)) == 5  # flushed at each boundary
    read = scalars(tmp_path)
    assert read["accuracy"] == [(0, 0.5), (3, 0.75)]
    assert set(read) == {
        "accuracy", "dead_fraction/relu", "dead_fraction/relu-2",
        "effective_rank/relu", "effective_rank/relu-2",
    }  # fmt: skip
    for key, values in read.items():
        assert values == [
            (0, pytest.approx(first[key], rel=1e-6)),
            (3, pytest.approx(second[key], rel=1e-6)),
        ]


def test_given_writer_is_flushed_and_left_open(tmp_path):
    class Watched(SummaryWriter):
        calls = ()

        def flush(self):
            self.calls += ("flush",)
            super().flush()

        def close(self):
            self.calls += ("close",)
            super().close()

    writer = Watched(str(tmp_path))
    with Tracker(sequential(), torch.randn(6, 5), ["srank"], writer=writer) as tracker:
        tracker.boundary(task=0)
    assert writer.calls == ("flush",)
    writer.close()
    assert set(scalars(tmp_path)) == {"srank/1", "srank/3"}


def test_writer_and_folder_exclude_each_other(tmp_path):
    with (
        SummaryWriter(str(tmp_path)) as writer,
        pytest.raises(ValueError, match="both writer and log_dir="),
    ):
        Tracker(sequential(), torch.randn(6, 5), writer=writer, log_dir=tmp_path)


@pytest.mark.parametrize(
    "context",
    [
        torch.inference_mode,
        torch.no_grad,
        partial(torch.autocast, "cpu", dtype=torch.bfloat16),
        partial(torch.set_grad_enabled, True),
    ],
)
def test_the_context_does_not_change_the_numbers(context, model, probe):
    expected = Tracker(model, probe, UNLABELLED).measure()
    with context():
        tracker = Tracker(model, probe, UNLABELLED)
        assert tracker.measure() == expected
        tracker.boundary(task=0)
    assert tracker.boundary(task=1)["update_norm/total"] == 0


def test_tensors_that_the_model_caches_can_be_trained_on():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)
            self.table = None

        def forward(self, x):
            if self.table is None:
                self.table = torch.linspace(0, 1, 4)
            return F.relu(self.fc(x) * self.table)

    model, probe = Caching(), torch.randn(6, 3)
    with torch.inference_mode():
        Tracker(model, probe).measure()
    model(probe).sum().backward()  # an error in torch if the table were an inference tensor
    assert model.fc.weight.grad is not None


def test_half_precision_features():
    model = sequential().bfloat16()
    measured = Tracker(model, torch.randn(16, 5).bfloat16()).measure()
    assert 1 <= measured["effective_rank/3"] <= 8


def test_probe_is_a_copy():
    model, probe = sequential(), torch.randn(16, 5)
    tracker = Tracker(model, probe)
    expected = tracker.measure()
    probe.zero_()
    assert tracker.measure() == expected


def test_probe_of_several_arguments():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, observation, pair, scale):
            return F.relu(self.fc(observation["a"] + pair[0] + pair[1]) * scale)

    model, x = Model(), torch.randn(6, 3)
    probe = ({"a": x}, [x, x], 2.0)
    measured = Tracker(model, probe, ["feature_norm"]).measure()
    expected = F.relu(2 * model.fc(3 * x)).norm(dim=1).mean().item()
    assert measured == {"feature_norm/relu": pytest.approx(expected, rel=1e-6)}


def test_compiled_model_is_measured_inside(model, probe):
    expected = Tracker(model, probe).measure()
    # In evaluation mode already, so that the first call updates no running statistics.
    compiled = torch.compile(model.eval(), backend="eager")
    compiled(probe)
    assert Tracker(compiled, probe).measure() == expected
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        (["efective_rank"], ValueError, r"no metric 'efective_rank'\. Did you mean 'effective_rank'\?"),
        (["nonsense"], ValueError, "no metric 'nonsense'.*'update_norm'"),
        (["srank", "srank"], ValueError, "'srank' is given twice"),
        (["srank", Metric("srank", ranks.srank, "features")], ValueError, "'srank' is given twice"),
        ([], ValueError, "metrics is empty"),
        ("srank", TypeError, "must be a list, got 'srank'"),
        ([ranks.srank], TypeError, "a name or a Metric, got function"),
    ],
)  # fmt: skip
def test_wrong_metrics(metrics, error, message):
    with pytest.raises(error, match=message):
        Tracker(sequential(), torch.randn(6, 5), metrics)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (["fc"], ValueError, r"no layer 'fc'\. Known: '0', '1'"),
        (["relu"], ValueError, r"'relu' did not run inside the block. Ran: '1', '3'"),
        ("fc", TypeError, r"use \['fc'\]"),
    ],
)
def test_wrong_layers_are_rejected_at_once(layers, error, message):
    with pytest.raises(error, match=message):
        Tracker(sequential(), torch.randn(6, 5), layers=layers)


def test_model_without_activations_needs_layers():
    model, probe = nn.Sequential(nn.Linear(5, 3)), torch.randn(6, 5)
    with pytest.raises(ValueError, match="no activation was seen in Sequential"):
        Tracker(model, probe)
    assert list(Tracker(model, probe, ["weight_norm"]).measure()) == [
        "weight_norm/0",
        "weight_norm/total",
    ]
    assert list(Tracker(model, probe, ["srank"], layers=["0"]).measure()) == ["srank/0"]


def test_layer_without_units_is_rejected_at_once():
    class Critic(nn.Module):
        def forward(self, x):
            return F.relu(x.sum(1))

    with pytest.raises(ValueError, match=r"layer 'relu': an activation of shape \(6,\)"):
        Tracker(Critic(), torch.randn(6, 5))


def test_lazy_parameters_are_rejected():
    model = nn.Sequential(nn.LazyLinear(3), nn.ReLU())
    with pytest.raises(ValueError, match=r"'0\.weight' is lazy"):
        Tracker(model, torch.randn(6, 5))


@pytest.mark.parametrize("probe", [None, 3.0, "text", ["a", "b"], ((), 3)])
def test_probe_without_data_is_rejected(probe):
    with pytest.raises(TypeError, match="probe_batch must be a tensor"):
        Tracker(sequential(), probe)


def test_wrong_rows_are_rejected():
    tracker = Tracker(sequential(), torch.randn(6, 5), ["srank"])
    with pytest.raises(ValueError, match="task must be at least 0"):
        tracker.boundary(task=-1)
    with pytest.raises(TypeError, match="task must be an integer"):
        tracker.boundary(task=0.5)
    with pytest.raises(TypeError, match=r"note must be a number, got 'fine' \(str\)"):
        tracker.boundary(task=0, note="fine")
    with pytest.raises(ValueError, match="'srank/1' is measured by the tracker"):
        tracker.boundary(task=0, **{"srank/1": 1.0})
    assert tracker.rows == []


def test_unwritable_file_is_found_at_once(tmp_path):
    with pytest.raises(IsADirectoryError):
        Tracker(sequential(), torch.randn(6, 5), path=tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_probe_moves_with_the_model(model, probe):
    tracker = Tracker(model, probe)
    expected = tracker.measure()
    model.cuda()
    random = torch.cuda.get_rng_state()
    assert tracker.measure() == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert torch.equal(torch.cuda.get_rng_state(), random)


# ---- a probe per task, and the state of a tracker --------------------------------------------------


def test_a_new_probe_replaces_the_old(model):
    first, second = images(1), images(2)
    tracker = Tracker(model, first, ["effective_rank", "feature_norm"], ["fc1"])
    expected = Tracker(model, second, ["effective_rank", "feature_norm"], ["fc1"]).measure()
    before = tracker.measure()
    row = tracker.boundary(task=0, probe_batch=second)
    assert {key: row[key] for key in expected} == expected != before
    assert tracker.measure() == expected  # from now on
    assert tracker.measure(first) == before


def test_state_includes_the_previous_boundary(model):
    tracker = Tracker(model, images(1), ["update_norm"])
    assert tracker.state_dict() == {"previous": None, "before_step": None}
    tracker.boundary(task=0)
    resumed = Tracker(model, images(1), ["update_norm"])
    resumed.load_state_dict(copy.deepcopy(tracker.state_dict()))
    with torch.no_grad():
        model.fc2.bias.add_(torch.tensor([3.0, 0.0, 4.0]))  # moved by 5
    row = resumed.boundary(task=1)
    assert row == tracker.boundary(task=1)
    assert row["update_norm/total"] == pytest.approx(5.0, rel=1e-6)


# ---- a run that is resumed from an earlier task ----------------------------------------------------


def tracked_run(model, directory, tasks):
    metrics = ["weight_norm", "update_norm"]
    with Tracker(
        model, torch.randn(6, 5), metrics, log_dir=directory, path=directory / "rows.jsonl"
    ) as tracker:
        for task in tasks:
            with torch.no_grad():
                model[0].bias.fill_(task)
            tracker.boundary(task=task)
    return tracker


def tasks_in(path):
    return [json.loads(line)["task"] for line in path.read_text().splitlines()]


def test_a_restart_from_an_earlier_task_writes_rows_and_events_once(tmp_path, caplog):
    whole = tracked_run(sequential(), tmp_path / "whole", range(5))
    model = sequential()
    first = tracked_run(model, tmp_path / "parts", range(3))
    state = copy.deepcopy(first.state_dict())  # a checkpoint after task 2 …
    tracked_run(model, tmp_path / "parts", range(3, 4))
    # … is where a new process continues: task 3 is repeated.
    path, metrics = tmp_path / "parts" / "rows.jsonl", ["weight_norm", "update_norm"]
    with path.open("a") as file:
        file.write('{"task": 4, "weight_no')  # killed while writing
    caplog.clear()
    with Tracker(model, torch.randn(6, 5), metrics, log_dir=path.parent, path=path) as again:
        again.load_state_dict(state)
        for task in (3, 4):
            with torch.no_grad():
                model[0].bias.fill_(task)
            again.boundary(task=task)
    assert path.read_text() == (tmp_path / "whole" / "rows.jsonl").read_text()
    assert scalars(tmp_path / "parts") == scalars(tmp_path / "whole")
    assert "removed 1 rows, of task 3 to 3" in caplog.text
    assert len(whole.rows) == 5


def test_a_tracker_that_goes_back_in_its_own_process(tmp_path):
    model, path = sequential(), tmp_path / "rows.jsonl"
    tracker = Tracker(model, torch.randn(6, 5), ["update_norm"], path=path, log_dir=tmp_path)
    tracker.boundary(task=0)
    state = tracker.state_dict()
    for task in (1, 2, 3):
        tracker.boundary(task=task)
    tracker.load_state_dict(state)
    assert "update_norm/total" in tracker.boundary(task=1)
    assert [row["task"] for row in tracker.rows] == [0, 1]
    assert tasks_in(path) == [0, 1]
    tracker.boundary(task=5)
    assert tasks_in(path) == [0, 1, 5]
    tracker.close()
    steps = [step for step, _ in scalars(tmp_path)["update_norm/total"]]
    assert steps == [1, 5]


def test_repeated_tasks_lose_no_row(tmp_path):
    """A cyclic stream: nothing was resumed, so nothing is removed."""
    path = tmp_path / "rows.jsonl"
    tracker = Tracker(sequential(), torch.randn(6, 5), ["weight_norm"], path=path)
    for task in (0, 1, 0, 1):
        tracker.boundary(task=task)
    assert [row["task"] for row in tracker.rows] == [0, 1, 0, 1]
    assert tasks_in(path) == [0, 1, 0, 1]


@pytest.mark.parametrize("has_state", [True, False])
@pytest.mark.parametrize(
    ("before", "task", "kept"),
    [
        ([0, 1, 2, 0, 1, 2], 1, [0, 1, 2, 0]),
        ([0, 1, 2, 0], 1, [0, 1, 2, 0]),
        ([0, 1, 2, 0, 1], 0, [0, 1, 2]),
        ([3, 1, 2], 5, [3, 1, 2]),
    ],
)
def test_a_resumed_cyclic_stream_keeps_its_earlier_rounds(before, task, kept, has_state, tmp_path):
    tracker = tracked_run(sequential(), tmp_path, before)
    path = tmp_path / "rows.jsonl"
    with Tracker(sequential(), torch.randn(6, 5), path=path, log_dir=tmp_path) as again:
        if has_state:
            again.load_state_dict(tracker.state_dict())
        elif task == 0:
            kept = []  # it starts over
        again.boundary(task=task)
    assert tasks_in(path) == [*kept, task]
    # TensorBoard reads files in the order of their names, which is arbitrary within one second.
    steps = [step for step, _ in scalars(tmp_path)["weight_norm/total"]]
    assert sorted(steps) == sorted([*kept, task])


def test_events_of_other_writers_in_the_folder_are_kept(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(0, 1000, 100):
            writer.add_scalar("loss", 0.5, step)
    for _ in range(2):
        tracked_run(sequential(), tmp_path, range(3))
    found = scalars(tmp_path)
    assert [step for step, _ in found["loss"]] == list(range(0, 1000, 100))
    assert [step for step, _ in found["weight_norm/total"]] == [0, 1, 2]


def test_two_trackers_of_one_file_do_not_remove_each_others_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    first, second = (Tracker(sequential(), torch.randn(6, 5), ["srank"], path=path) for _ in "ab")
    for task in range(2):
        first.boundary(task=task)
        second.boundary(task=task)
    assert tasks_in(path) == [0, 0, 1, 1]


def test_a_file_of_another_kind_is_rejected_at_once(tmp_path):
    (tmp_path / "notes.txt").write_text("a diary\n")
    with pytest.raises(ValueError, match=r"line 1 of .*is not a row"):
        Tracker(sequential(), torch.randn(6, 5), path=tmp_path / "notes.txt")


# ---- a network that has diverged -------------------------------------------------------------------


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("parameter", ["weight of the first layer", "bias of the last layer"])
def test_a_diverged_network_gives_a_row_with_all_keys(parameter, number, tmp_path, recwarn):
    model, probe = sequential(), torch.randn(16, 5)
    metrics = [*UNLABELLED, Metric("ntk_rank", lambda model: ntk_rank(model, probe[:3]), "model")]
    path = tmp_path / "rows.jsonl"
    tracker = Tracker(model, probe, metrics, path=path)
    tracker.boundary(task=0)
    healthy = tracker.boundary(task=1, loss=0.5)
    with torch.no_grad():
        if parameter.startswith("weight"):
            model[0].weight[0, 0] = number
        else:
            model[4].bias[0] = number  # visible in no activation
    assert not recwarn.list
    with pytest.warns(RuntimeWarning, match="diverged by task 2"):
        row = tracker.boundary(task=2, loss=math.nan)
    again = tracker.boundary(task=3, loss=math.nan)  # without a second warning
    assert not recwarn.list
    assert list(row) == list(again) == list(healthy)
    assert (healthy["diverged"], row["diverged"], again["diverged"]) == (False, True, True)
    assert len(tracker.rows) == 4
    assert not math.isfinite(row["weight_norm/total"])
    assert math.isfinite(row["weight_norm/2"])
    if parameter.startswith("weight"):
        for name in RANKS:
            assert math.isnan(row[f"{name}/1"]), name
        assert math.isnan(row["ntk_rank"]) or not math.isnan(number)
    else:
        assert row["effective_rank/3"] == healthy["effective_rank/3"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["diverged"] for line in lines] == [False, False, True, True]
    assert lines[2]["weight_norm/total"] is None
    # The network may recover.
    model.load_state_dict(sequential().state_dict())
    row = tracker.boundary(task=4, loss=0.5)
    assert row["effective_rank/3"] == healthy["effective_rank/3"]
    assert not row["diverged"]


def test_measure_names_the_layer_that_diverged():
    tracker = Tracker(diverged(), torch.randn(6, 5))
    # Layers 1 and 3 are decomposed as one stack; the indices are those in the layer's own matrix.
    with pytest.raises(ValueError, match=r"layer '3': features\[0, 3\] is nan"):
        tracker.measure()


def test_layers_before_the_diverged_one_keep_their_numbers():
    probe = torch.randn(16, 5)
    expected = Tracker(sequential(), probe).measure()
    with pytest.warns(RuntimeWarning, match="diverged"):
        row = Tracker(diverged(), probe).boundary(task=0)
    for name in RANKS:
        assert row[f"{name}/1"] == pytest.approx(expected[f"{name}/1"], rel=1e-5)
        assert math.isnan(row[f"{name}/3"])


def test_features_that_overflow_count_as_diverged():
    model = sequential()
    tracker = Tracker(model, torch.randn(6, 5))
    with torch.no_grad():
        model[0].weight.fill_(1e38)  # finite, but its products are not
        model[0].bias.fill_(3e38)
    with pytest.warns(RuntimeWarning, match="diverged"):
        row = tracker.boundary(task=0)
    assert row["diverged"]
    assert math.isnan(row["effective_rank/1"])


class Strict(nn.Module):
    """Module that rejects NaN by itself, as torch.distributions do."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 4)
        self.bug = False

    def forward(self, x):
        hidden = F.relu(self.fc(x))
        if self.bug:
            raise KeyError("a bug")
        return torch.distributions.Categorical(logits=hidden, validate_args=True).probs


def test_a_forward_pass_that_fails_on_nan_gives_a_row():
    model = Strict()
    tracker = Tracker(model, torch.randn(6, 5))
    healthy = tracker.boundary(task=0)
    with torch.no_grad():
        model.fc.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="Expected parameter"):
        tracker.measure()
    with pytest.warns(RuntimeWarning, match="diverged"):
        row = tracker.boundary(task=1)
    assert list(row) == list(healthy)
    assert row["diverged"]
    assert math.isnan(row["dead_fraction/relu"])


def test_an_error_in_a_healthy_network_is_raised():
    model = Strict()

    def wrong(_features):
        raise ZeroDivisionError("of my own making")

    tracker = Tracker(model, torch.randn(6, 5), ["srank"])
    model.bug = True
    with pytest.raises(KeyError, match="a bug"):
        tracker.boundary(task=0)
    model.bug = False
    for kind in ("features", "model"):
        tracker = Tracker(model, torch.randn(6, 5), [Metric("wrong", wrong, kind)])
        with pytest.raises(ZeroDivisionError, match="of my own making"):
            tracker.boundary(task=0)
        assert tracker.rows == []


def test_infinity_in_a_frozen_mask_is_not_divergence():
    model = sequential()
    mask = torch.full((3, 3), -torch.inf).triu(1)
    model.mask = nn.Parameter(mask, requires_grad=False)
    model[1].register_buffer("mask", mask)
    assert not Tracker(model, torch.randn(6, 5), ["srank"]).boundary(task=0)["diverged"]


def test_names_of_row_entries_are_rejected_as_extra_numbers():
    tracker = Tracker(sequential(), torch.randn(6, 5), ["srank"])
    with pytest.raises(ValueError, match="'diverged' is measured by the tracker"):
        tracker.boundary(task=0, diverged=True)
    assert tracker.rows == []


# ---- keys ------------------------------------------------------------------------------------------

MLFLOW = r"[/\w.\- ]+"  # mlflow.utils.validation._VALID_PARAM_AND_METRIC_NAMES


@pytest.mark.parametrize(
    ("metric", "layer", "key"),
    [
        ("srank", "", "srank"),
        ("srank", "trunk.0", "srank/trunk.0"),
        ("srank", "relu#2", "srank/relu-2"),
        ("srank", "lstm[0]", "srank/lstm.0"),
        ("srank", "lstm[1][0]#3", "srank/lstm.1.0-3"),
        ("srank", "encoder.last_hidden_state", "srank/encoder.last_hidden_state"),
        ("top@1 (%)", "a:b", "top_1 ___/a_b"),
    ],
)
def test_metric_keys_are_accepted_by_mlflow(metric, layer, key):
    assert metric_key(metric, layer) == key
    assert re.fullmatch(MLFLOW, key)


def test_keys_of_rows_and_files_are_accepted_by_mlflow(tmp_path):
    model = nn.ModuleDict({"a b": nn.Linear(4, 4), "x:y": nn.ReLU()})
    model.forward = lambda x: model["x:y"](F.relu(F.relu(model["a b"](x)) - 0.1))
    path = tmp_path / "rows.jsonl"
    row = Tracker(model, torch.randn(6, 4), path=path).boundary(task=0)
    assert {"srank/relu", "srank/relu-2", "srank/x_y", "weight_norm/a b"} <= set(row)
    assert list(json.loads(path.read_text())) == list(row)
    for key in row:
        assert re.fullmatch(MLFLOW, key), key


def test_two_layers_with_the_same_key_are_an_error():
    model = nn.ModuleDict({"x:y": nn.ReLU(), "x_y": nn.ReLU()})
    model.forward = lambda x: model["x_y"](model["x:y"](x) - 0.1)
    with pytest.raises(ValueError, match="'x_y' and 'x:y' would both be 'layer/x_y'"):
        Tracker(model, torch.randn(6, 4))
    row = Tracker(model, torch.randn(6, 4), ["srank"], ["x:y"]).boundary(task=0)
    assert "srank/x_y" in row


def test_unit_layouts_are_found_anew_for_other_shapes():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(6, 32)

        def forward(self, x):
            q = self.q(x).unflatten(-1, (4, 8))
            return torch.relu(q.transpose(1, 2) if x.shape[1] > 2 else q.movedim(-1, 1))

    units = Metric("units", lambda features: torch.tensor(features.shape[1]), "features")
    rows = Metric("rows", lambda features: torch.tensor(features.shape[0]), "features")
    tracker = Tracker(Heads(), torch.randn(3, 5, 6), [units, rows])
    for positions in (5, 5, 2, 2, 7):
        found = tracker.measure(torch.randn(3, positions, 6))
        assert found == {"units/relu": 32, "rows/relu": 3 * positions}
