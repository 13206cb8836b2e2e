"""Averages of all layers, against the same from the features and weights of each."""

import pytest
import torch
from networks_in_training import adam, context_of, images, marker, single, stacked
from torch import nn

from plasticity.mitigations.unit_averages import (
    incoming_means,
    incoming_sums,
    joined_features,
    mean_features,
    mean_magnitudes,
    outgoing_sums,
    weight_magnitudes,
)
from plasticity.recording import recorded_inputs

MARKERS = [{}, {"channels_last": True}, {"crelu": True}]


def plain():
    """Three hidden layers side by side, of different widths."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)]
    return nn.Sequential(*layers)


def observed(model, count):
    """Return the context of a network that has seen images."""
    networks = single(model, adam(model), images(2))
    context = context_of(networks)
    with recorded_inputs(model, {u.readers[0].layer for u in networks.units.values()}) as found:
        model(images(count))
    context._progress.layer_inputs = {name: [each.detach()] for name, each in found.items()}
    return context


@pytest.fixture(params=[*MARKERS, None], ids=str)
def model(request):
    return plain() if request.param is None else marker(**request.param)


@pytest.mark.parametrize("count", [1, 5])
def test_magnitudes_and_means(model, count):
    context = observed(model, count)
    features = joined_features(context)
    found = mean_magnitudes(context, features)
    expected = [context.features(layer).abs().mean(-2) for layer in context.units]
    torch.testing.assert_close(found, torch.cat(expected))
    by_column = mean_features(context, features)
    sizes = [each.readers[0].columns.numel() for each in context.units.values()]
    means = [
        own.view(units.count, -1).mean(-1)
        for own, units in zip(by_column.split(sizes), context.units.values(), strict=True)
    ]
    expected = [context.features(layer).mean(-2) for layer in context.units]
    torch.testing.assert_close(torch.cat(means), torch.cat(expected))
    # around their own means, features are as far as in a batch that is centred
    around = mean_magnitudes(context, features, by_column)
    for layer, each in context.units.items():
        inputs = context.reader_inputs(layer)[0]
        centred = inputs - inputs.mean((0, -1, -2) if inputs.dim() == 4 else 0, keepdim=True)
        context._progress.layer_inputs[each.readers[0].layer] = [centred]
    expected = [context.features(layer).abs().mean(-2) for layer in context.units]
    torch.testing.assert_close(around, torch.cat(expected))


def test_sums_and_means_of_weights(model):
    context = observed(model, 2)
    found = iter(outgoing_sums(context, weight_magnitudes(context)))
    means = incoming_means(context, context.parameters)
    for layer, units in context.units.items():
        (reader,) = units.readers
        weight = context.parameters[reader.weight].detach()
        for columns, own in zip(reader.columns, context.parameters[units.weight], strict=True):
            torch.testing.assert_close(next(found), weight[:, columns].abs().sum())
            assert own.abs().mean().item() in means[layer].tolist()
    assert next(found, None) is None
    assert list(incoming_means(context, {})) == []
    sums, numbers = incoming_sums(context, weight_magnitudes(context, outgoing=False))
    each = sums.split([units.count for units in context.units.values()])
    for own, number, mean in zip(each, numbers, means.values(), strict=True):
        torch.testing.assert_close(own / number, mean)
    readers = {each.readers[0].weight for each in context.units.values()}
    assert set(weight_magnitudes(context, incoming=False)) == readers


def test_networks_that_are_stacked_have_numbers_of_their_own():
    models = [marker(seed, crelu=True) for seed in range(3)]
    networks, run, _ = stacked(models, images(2))
    context = context_of(networks, 0, 1, 2)
    layers = {u.readers[0].layer for u in networks.units.values()}
    inputs = torch.stack([images(4, seed) for seed in range(3)])
    _, found = run.with_inputs_of(tuple(layers), inputs)
    context._progress.layer_inputs = {name: [each.detach()] for name, each in found.items()}
    features = joined_features(context)
    around = mean_features(context, features)
    together = [
        around,
        mean_magnitudes(context, features),
        mean_magnitudes(context, features, around),
        outgoing_sums(context, weight_magnitudes(context)),
        *incoming_means(context, context.parameters).values(),
    ]
    for index in range(3):
        own = context.of_run(index)
        own._progress = type(own._progress)(
            layer_inputs={name: [each[index].detach()] for name, each in found.items()}
        )
        features = joined_features(own)
        around = mean_features(own, features)
        alone = [
            around,
            mean_magnitudes(own, features),
            mean_magnitudes(own, features, around),
            outgoing_sums(own, weight_magnitudes(own)),
            *incoming_means(own, own.parameters).values(),
        ]
        for row, each in zip(together, alone, strict=True):
            torch.testing.assert_close(row[index], each)
