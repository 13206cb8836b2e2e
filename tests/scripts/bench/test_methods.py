from dataclasses import dataclass
from typing import ClassVar

from plasticity.mitigations import MITIGATIONS, Mitigation
from plasticity.scripts.bench import methods as methods_module
from plasticity.scripts.bench.comparison import Effort
from plasticity.scripts.bench.methods import SETTINGS, methods


@dataclass(frozen=True, kw_only=True)
class Copies(Mitigation):
    """Copies of all parameters."""

    name: ClassVar[str] = "copies"

    every: int = 1000
    calls: ClassVar[list[int]] = []

    def initial_state(self, context):
        return {name: each.detach().clone() for name, each in context.parameters.items()}

    def after_step(self, context):
        self.calls.append(self.every)


def test_every_method_has_a_row_of_time_and_one_of_memory(monkeypatch):
    monkeypatch.setitem(MITIGATIONS, "copies", Copies)
    measured = {name: MITIGATIONS[name] for name in ("copies", "redo")}
    monkeypatch.setattr(methods_module, "MITIGATIONS", measured)
    rows = list(methods(Effort(quick=True)))
    label = next(iter(SETTINGS))
    assert [(row.case, row.unit) for row in rows] == [
        (f"copies, {label}", "time"),
        (f"redo, {label}", "time"),
        (f"copies, {label}", "memory"),
        (f"redo, {label}", "memory"),
    ]
    assert set(Copies.calls) == {2}  # at least once a turn of two steps, and said so
    assert all("every=2, not 1000" in row.note for row in rows)
    assert rows[2].ours - rows[2].theirs >= 4 * 52_138  # bytes of the CNN's parameters
