"""Tests of the address tables against the tensors."""

import pytest
import torch

from plasticity.optim.kernels.tensor_table import (
    CHUNK,
    Column,
    DrawnAnchor,
    TableCache,
    TensorTable,
    rows_of,
)


def column_of(rows, column):
    return [row[column] for row in rows.fields]


def test_rows_contain_addresses_sizes_and_first_programs():
    # 1 program, none, 3, 1
    parameters = [torch.empty(5), torch.empty(0), torch.empty(2, CHUNK + 1), torch.empty(())]
    gradients = [torch.empty_like(p) for p in parameters]
    ((key, rows),) = rows_of(
        {Column.PARAMETER: parameters, Column.GRADIENT: gradients}, None
    ).items()
    assert key == (torch.device("cpu"), torch.float32, True)
    assert column_of(rows, Column.PARAMETER) == [p.data_ptr() for p in parameters]
    assert column_of(rows, Column.GRADIENT) == [g.data_ptr() for g in gradients]
    assert column_of(rows, Column.ELEMENTS) == [5, 0, 2 * CHUNK + 2, 1]
    assert column_of(rows, Column.FIRST_PROGRAM) == [0, 1, 1, 4]
    table = TensorTable(key, rows)
    assert table.program_rows.tolist() == [0, 2, 2, 2, 3]
    assert (table.count, table.programs) == (4, 5)


def test_launches_by_dtype_and_alignment():
    whole = torch.empty(100)
    parameters = [whole[:4], whole[1:5], torch.empty(3, dtype=torch.bfloat16), whole[4:8]]
    found = rows_of({Column.PARAMETER: parameters}, None)
    assert {(key.dtype, key.aligned): len(rows.fields) for key, rows in found.items()} == {
        (torch.float32, True): 2,
        (torch.float32, False): 1,
        (torch.bfloat16, True): 1,
    }


def test_a_step_count_needs_no_alignment():
    counts = torch.zeros(8).unbind()
    columns = {Column.PARAMETER: [torch.empty(4)], Column.STEP: [counts[1]]}
    (key,) = rows_of(columns, None)
    assert key.aligned


def test_seeds_of_drawn_anchors_are_stored_as_64_bits():
    anchors = [DrawnAnchor(2**64 - 1, 3, 0.25), DrawnAnchor(7, 2**32 - 1, 0.5)]
    (rows,) = rows_of({Column.PARAMETER: [torch.empty(2), torch.empty(3)]}, anchors).values()
    assert column_of(rows, Column.SEED) == [-1, 7]
    assert column_of(rows, Column.POSITION) == [3, 2**32 - 1]
    ((key, rows),) = rows_of({Column.PARAMETER: [torch.empty(2)]}, anchors[:1]).items()
    assert TensorTable(key, rows).numbers.tolist() == [[0.25, 0, 0, 0]]


def test_layouts():
    last = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    rows_of({Column.PARAMETER: [last, torch.empty(3, 4).T]}, None)
    with pytest.raises(ValueError, match=r'row-major order: make it contiguous.*kernel="triton"'):
        rows_of({Column.PARAMETER: [last]}, [DrawnAnchor(0, 0, 1.0)])
    for gaps in (torch.empty(4, 4)[:, ::2], torch.empty(1).expand(3)):
        with pytest.raises(ValueError, match=r'dense in memory.*kernel="eager"'):
            rows_of({Column.PARAMETER: [gaps]}, None)


def test_a_cache_rebuilds_tables_only_after_a_change():
    cache = TableCache()
    parameters = [torch.empty(5), torch.empty(6)]
    anchors = [DrawnAnchor(1, 0, 1.0), DrawnAnchor(1, 1, 1.0)]
    columns = {Column.PARAMETER: parameters}
    first = cache.tables(columns, anchors)
    assert cache.tables({Column.PARAMETER: list(parameters)}, list(anchors)) is first
    changes = [
        (columns, [DrawnAnchor(2, 0, 1.0), anchors[1]]),
        (columns, None),
        ({Column.PARAMETER: parameters[:1]}, anchors[:1]),
        ({Column.PARAMETER: [parameters[0][:4], parameters[1]]}, anchors),
        ({**columns, Column.GRADIENT: parameters}, anchors),
    ]
    latest = first
    for change in changes:
        found = cache.tables(*change)
        assert found is not latest
        latest = found
    square = torch.empty(3, 3)
    cache.tables({Column.PARAMETER: [square]}, anchors[:1])
    with pytest.raises(ValueError, match="contiguous"):  # at the same address, with other strides
        cache.tables({Column.PARAMETER: [square.t()]}, anchors[:1])
    parameters[0].data = torch.empty(5)
    (moved,) = cache.tables(columns, anchors)
    assert moved.fields[0, Column.PARAMETER] == parameters[0].data_ptr()


def test_tensors_may_alternate_between_addresses():
    cache = TableCache()
    tensors = [torch.empty(5) for _ in range(9)]
    made = [cache.tables({Column.PARAMETER: [tensor]}, None) for tensor in tensors]
    # eight are kept: all of the nine except for the least recently used one
    for tensor, tables in list(zip(tensors, made, strict=True))[1:]:
        assert cache.tables({Column.PARAMETER: [tensor]}, None) is tables
    assert cache.tables({Column.PARAMETER: tensors[:1]}, None) is not made[0]
