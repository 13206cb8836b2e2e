"""The house: who imports whom, what an import costs, and that nothing is named in vain."""

import ast
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

import plasticity

ROOT = Path(__file__).parents[1]

# room: what it may import of ours
ALLOWED = {
    "plasticity": {"plasticity"},
    "tasks": {"plasticity.tasks"},
    "agents": {"plasticity", "plasticity.agents"},
    "scripts": {"plasticity", "plasticity.agents", "plasticity.tasks", "plasticity.scripts"},
}


def room_of(module):
    parts = module.split(".")
    is_room = len(parts) > 1 and parts[1] in ("agents", "tasks", "scripts")
    return ".".join(parts[:2]) if is_room else "plasticity"


def imports_of(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("room", ALLOWED)
def test_no_import_runs_upward(room):
    files = list((ROOT / room).glob("*.py"))
    assert files
    for file in files:
        for module in imports_of(file):
            top = module.split(".")[0]
            assert top not in ("agents", "tasks", "scripts"), f"{file} imports {module}"
            if top == "plasticity":
                assert room_of(module) in ALLOWED[room], f"{file} imports {module}"


def loaded_by(statement):
    code = f"{statement}; import sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {
    *("stable_baselines3", "pybullet", "mujoco", "warp", "mujoco_warp", "triton"),
    *("tensorboard", "matplotlib", "sklearn"),
}


# The environments are in gymnasium's registry as soon as their room is imported.
@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import plasticity", HEAVY | {"gymnasium"}),
        ("import plasticity.tasks", HEAVY),
        ("import plasticity.agents", HEAVY | {"gymnasium"}),
    ],
)
def test_imports_stay_light(statement, heavy):
    assert not loaded_by(statement) & heavy


def test_all_public_names_are_there_and_documented():
    for name in plasticity.__all__:
        found = getattr(plasticity, name)
        if callable(found):
            assert found.__doc__, name


def test_every_dependency_is_explained_in_the_readme():
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text()
    named = chain(project["dependencies"], *project["optional-dependencies"].values())
    for requirement in named:
        name = requirement.split(">")[0]
        assert name in readme, name


def test_every_source_file_has_its_tests():
    """tests/ mirrors the rooms: test_x.py for x.py."""
    tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    files = [file for room in ALLOWED for file in (ROOT / room).glob("*.py")]
    own = [file for file in files if file.stem not in ("__init__", *COVERED_ELSEWHERE)]
    assert [file for file in own if f"test_{file.stem}" not in tests] == []
    assert set(COVERED_ELSEWHERE) <= {file.stem for file in files}
    assert set(COVERED_ELSEWHERE.values()) <= tests


# file: where it is tested, as its idea is part of another's
COVERED_ELSEWHERE = {
    "durable": "test_runs",
    "events": "test_runs",
    "progress": "test_run",
    "arms": "test_report",
    "comparison": "test_report",
    "metric_names": "test_report",
    "report_figures": "test_report",
    "report_page": "test_report",
    "benchmarks": "test_run",
    "options": "test_run",
    "experiments": "test_pool",
    "jobs": "test_grouping",
    "ant_rows": "test_ant_experiment",
    "random_state": "test_runs",
    "bench_compiled": "test_bench",
    "bench_memory": "test_bench",
    "bench_parallel": "test_bench",
    "bench_rows": "test_bench",
    "bench_steps": "test_bench",
    "bench_trainer": "test_bench",
    "hardware": "test_bench",
    "joining": "test_regularizers",
    "saved_anchors": "test_regularized_groups",
    "initial_weights": "test_regularized_groups",
    "regularized_state": "test_regularized_groups",
    "optimizer": "test_regularizers",
    "table_kernel": "test_decay_kernel",
    "targets": "test_regularizers",
    "settings": "test_regularizers",
    "replica_blocks": "test_replica_optimizer",
    "replica_evaluation": "test_replica_ppo",
    "replica_rollout": "test_replica_ppo",
    "replica_requirements": "test_replica_optimizer",
    "replica_orders": "test_replica_classifier",
    "event_files": "test_tracker",
    "measuring": "test_tracker",
    "metrics": "test_tracker",
    "sb3_logging": "test_sb3_callback",
    "activations": "test_capture",
    "layer_names": "test_capture",
    "unit_entry_rules": "test_unit_tracer",
    "unit_layout_rules": "test_unit_tracer",
    "unit_numbers": "test_unit_tracer",
    "unit_operation": "test_unit_tracer",
    "unit_record": "test_unit_tracer",
    "unit_weight_rules": "test_unit_tracer",
    "unit_weights": "test_units",
}
