"""Tests of probe batches: a batch of any kind reaches the model as its call requires, without padding."""

from collections import OrderedDict, UserDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from plasticity.metrics.capture import capture
from plasticity.metrics.norms import feature_norm
from plasticity.metrics.probe_batches import takes_keywords
from plasticity.metrics.ranks import effective_rank
from plasticity.metrics.registry import Metric
from plasticity.metrics.tracker import Tracker

NORM = ["feature_norm"]


def value(measured: dict) -> float:
    (number,) = measured.values()
    return number


class KeywordsOnly(nn.Module):
    """Model called like those of Hugging Face."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(10, 6)
        self.fc = nn.Linear(6, 4)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = F.relu(self.fc(self.embedding(input_ids)))
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        return hidden.sum(1)


class BatchEncoding(UserDict):
    """Encoding like that of Hugging Face: a mapping with attributes and `to`."""

    def __getattr__(self, name):
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device):
        self.data = {key: tensor.to(device) for key, tensor in self.data.items()}
        return self


TOKENS = torch.arange(15).reshape(3, 5) % 10
ENTRIES = {"input_ids": TOKENS, "attention_mask": torch.ones(3, 5, dtype=torch.long)}


@pytest.mark.parametrize("form", [dict, OrderedDict, UserDict, BatchEncoding])
def test_mapping_is_passed_as_keywords_where_the_model_takes_them(form):
    model = KeywordsOnly()
    with capture(model) as activations:
        model(**ENTRIES)
    expected = float(feature_norm(activations.units("relu")))
    assert value(Tracker(model, form(ENTRIES), NORM).measure()) == pytest.approx(expected)


def test_mapping_of_arrays_is_passed_as_keywords():
    arrays = {key: tensor.numpy() for key, tensor in ENTRIES.items()}
    model = KeywordsOnly()
    expected = Tracker(model, ENTRIES, NORM).measure()
    assert Tracker(model, arrays, NORM).measure() == expected


class Fields(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 4)

    def forward(self, batch):
        x = batch["x"] if hasattr(batch, "__getitem__") and not hasattr(batch, "x") else batch.x
        return F.relu(self.fc(x))


X = torch.arange(18.0).reshape(6, 3) / 9 - 1


def expected_norm() -> float:
    return float(feature_norm(F.relu(Fields().fc(X))))


def test_mapping_stays_one_argument_elsewhere():
    assert value(Tracker(Fields(), {"x": X}, NORM).measure()) == pytest.approx(expected_norm())
    encoding = Tracker(Fields(), BatchEncoding({"x": X}), NORM)  # as its own type: `batch.x`
    assert value(encoding.measure()) == pytest.approx(expected_norm())


@pytest.mark.parametrize(
    ("forward", "keys", "keywords"),
    [
        (lambda x, y: 0, ["x", "y"], True),
        (lambda x, y=None: 0, ["x"], True),
        (lambda x, y: 0, ["x"], True),  # and Python reports the missing argument
        (lambda x: 0, ["x", "z"], False),
        (lambda batch: 0, ["x"], False),
        (lambda x=None, **others: 0, ["x", "labels"], True),
        (lambda batch, **others: 0, ["x", "labels"], False),
        (lambda *args, **kwargs: 0, ["x"], True),
        (lambda x, /: 0, ["x"], False),
        (lambda x: 0, [1], False),
        (lambda **kwargs: 0, [], False),
    ],
)
def test_when_a_mapping_is_passed_as_keywords(forward, keys, keywords):
    model = nn.Module()
    model.forward = forward
    assert takes_keywords(model, dict.fromkeys(keys)) is keywords


def test_forward_runs_any_kind_of_batch():
    model = Fields()

    def forward(model, batch):
        assert type(batch) is str
        return model({"x": X})

    tracker = Tracker(model, "a sentence", NORM, forward=forward)
    assert value(tracker.measure()) == pytest.approx(expected_norm())
    # also for later batches, with arrays unchanged
    tracker = Tracker(model, X.numpy(), NORM, forward=lambda m, b: m({"x": torch.from_numpy(b)}))
    first = value(tracker.measure())
    assert first == pytest.approx(expected_norm())
    assert value(tracker.measure((2 * X).numpy())) != pytest.approx(first)


def test_forward_decides_where_a_mapping_could_be_either():
    class Batch(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = Fields().fc

        def forward(self, batch):
            return F.relu(self.fc(batch["batch"]))

    with pytest.raises((TypeError, IndexError)):
        Tracker(Batch(), {"batch": X}, NORM)
    tracker = Tracker(Batch(), {"batch": X}, NORM, forward=lambda model, batch: model(batch))
    assert value(tracker.measure()) == pytest.approx(expected_norm())


def test_packed_sequence():
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = lstm

        def forward(self, sequence):
            assert sequence.batch_sizes.device.type == "cpu"
            return F.relu(self.lstm(sequence)[0].data)

    packed = pack_sequence([X[:3], X[3:5]])
    measured = Tracker(Recurrent(), packed, NORM).measure()
    expected = float(feature_norm(F.relu(lstm(packed)[0].data)))
    assert measured == {"feature_norm/relu": pytest.approx(expected)}


class Graph:
    """Batch object with `to` and `clone`, like PyG's Data and TensorDict."""

    def __init__(self, x, moves=0):
        self.x = x
        self.moves = moves

    def to(self, device):
        return Graph(self.x.to(device), self.moves + 1)

    def clone(self):
        return Graph(self.x.clone(), self.moves)


class Plain:
    """Batch object without either."""

    def __init__(self, x):
        self.x = x


@pytest.mark.parametrize("form", [Graph, Plain, lambda x: SimpleNamespace(x=x)])
def test_batch_objects(form):
    batch = form(X.clone())
    seen = []

    class Watched(Fields):
        def forward(self, batch):
            seen.append(batch)
            batch.x *= 1  # its own copy, which it may modify
            return super().forward(batch)

    tracker = Tracker(Watched(), batch, NORM)
    batch.x.zero_()
    assert value(tracker.measure()) == pytest.approx(expected_norm())
    if form is Graph:
        assert seen[-1].moves == 2  # to the device, once for each forward pass


def test_arrays():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    expected = Tracker(model, X).measure()
    assert Tracker(model, X.numpy().astype(np.float64)).measure() == expected
    assert Tracker(model, X.numpy()).measure(X.numpy()) == expected
    double = Tracker(model.double(), X.numpy()).measure()
    assert double == pytest.approx(expected, rel=1e-5)
    indices = Tracker(nn.Sequential(nn.Embedding(6, 3), nn.ReLU()), np.arange(6)).measure()
    assert math_close(indices["dormant_fraction/1"])


def math_close(number: float) -> bool:
    return 0 <= number <= 1


def test_array_is_a_copy():
    array = X.numpy().copy()
    tracker = Tracker(Fields(), {"x": array}, NORM)
    array[:] = 0
    assert value(tracker.measure()) == pytest.approx(expected_norm())


# ---- mask ------------------------------------------------------------------------------------------


class Sequences(nn.Module):
    """Model with every form of rows: (batch, L, units), (batch, units, L), heads, pooled, flattened."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 6)
        self.conv = nn.Conv1d(6, 3, 1)
        self.last = nn.Tanh()
        self.maps = nn.Sigmoid()
        self.flat = nn.SiLU()
        self.pooled = nn.ELU()

    def forward(self, x, attention_mask=None):
        x = self.last(self.fc(x))
        maps = self.maps(self.conv(x.transpose(1, 2)))
        self.flat(x.reshape(-1, 6))
        return self.pooled(maps.mean(-1))


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])  # 8 of 15 positions
SEQUENCES = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
LAYERS = ["last", "maps", "flat", "pooled"]


def rows_of(layer):
    """Compute the features of the positions with data, by hand."""
    model = Sequences()
    with torch.no_grad():
        hidden = [
            torch.tanh(model.fc(s[: int(m.sum())])) for s, m in zip(SEQUENCES, MASK, strict=True)
        ]
        rows = torch.cat(hidden)
        if layer == "maps":
            return torch.sigmoid(rows @ model.conv.weight[:, :, 0].T + model.conv.bias)
        return {"last": rows, "flat": F.silu(rows)}[layer]


@pytest.mark.parametrize("layer", ["last", "maps", "flat"])
@pytest.mark.parametrize(
    "form", [lambda m: m, lambda m: m.bool(), lambda m: m.numpy(), lambda m: m.float()]
)
def test_padding_is_left_out(layer, form):
    tracker = Tracker(Sequences(), SEQUENCES, ["effective_rank", *NORM], [layer], mask=form(MASK))
    rows = rows_of(layer)
    assert len(rows) == 8
    assert tracker.measure() == {
        f"effective_rank/{layer}": pytest.approx(float(effective_rank(rows)), rel=1e-5),
        f"feature_norm/{layer}": pytest.approx(float(feature_norm(rows)), rel=1e-5),
    }


def test_mask_can_be_an_entry_of_the_batch():
    batch = {"x": SEQUENCES, "attention_mask": MASK}
    expected = Tracker(Sequences(), SEQUENCES, layers=LAYERS, mask=MASK).measure()
    tracker = Tracker(Sequences(), batch, layers=LAYERS, mask="attention_mask")
    assert tracker.measure() == expected
    # the entry of each batch
    other = {"x": SEQUENCES[:2], "attention_mask": MASK[:2]}
    expected = Tracker(Sequences(), SEQUENCES[:2], layers=LAYERS, mask=MASK[:2]).measure()
    assert tracker.measure(other) == expected


def test_layers_without_positions_keep_their_rows():
    found = Tracker(Sequences(), SEQUENCES, NORM, ["pooled"], mask=MASK).measure()
    assert found == Tracker(Sequences(), SEQUENCES, NORM, ["pooled"]).measure()


def test_positions_as_many_as_units():
    """(batch, 5 positions, 5 units): the mask applies to the axis that does not hold the units."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    found = Tracker(model, SEQUENCES, NORM, mask=MASK).measure()
    rows = torch.cat([s[: int(m.sum())] for s, m in zip(SEQUENCES, MASK, strict=True)])
    assert value(found) == pytest.approx(float(feature_norm(model(rows))), rel=1e-5)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (MASK[0], ValueError, r"shape \(batch, positions\)"),
        (2 * MASK, ValueError, "True"),
        ([[1, 0]], TypeError, "mask must be a tensor or an array, got list"),
        ("padding", ValueError, "mask='padding' is not an entry of the probe batch.*'x'"),
        (MASK[:, :4], ValueError, r"layer 'last': mask of shape \(3, 4\) does not determine"),
        (0 * MASK, ValueError, "layer 'last': mask marks every row as padding"),
    ],
)
def test_masks_that_do_not_fit(mask, error, message):
    with pytest.raises(error, match=message):
        Tracker(Sequences(), {"x": SEQUENCES}, layers=["last"], mask=mask)


def test_two_axes_that_could_be_the_positions_are_rejected():
    class Heads(nn.Module):
        def forward(self, x):
            return F.relu(x)

    with pytest.raises(ValueError, match="expected one axis of 5 positions"):
        Tracker(Heads(), torch.rand(3, 4, 5, 5), units={"relu": 1}, mask=MASK)


def test_the_axis_of_units_can_be_given():
    """relu of the inputs: no layer made them, so the user has to name the axis."""

    class Inputs(nn.Module):
        def forward(self, x):
            return F.relu(x)

    sizes = Metric("units", lambda features: torch.tensor(features.shape[1]), "features")
    tracker = Tracker(Inputs(), torch.rand(3, 4, 5, 6), [sizes], units={"relu": (1, 3)})
    assert tracker.measure() == {"units/relu": 24}
