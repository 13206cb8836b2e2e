"""The house: who imports whom, what an import costs, and that nothing is named in vain."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tokenize
from dataclasses import fields
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path
from token import NAME

import pytest

import plasticity
from plasticity.mitigations import MITIGATIONS

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text()

# room: the rooms and files of ours that it may import
ALLOWED = {
    "plasticity": {"plasticity"},
    "tasks": {"plasticity.tasks", "plasticity.checks", "plasticity.seeds"},
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
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        for module in imports_of(file):
            top = module.split(".")[0]
            assert top not in ("agents", "tasks", "scripts"), f"{file} imports {module}"
            if top == "plasticity":
                own_or_file = {room_of(module), ".".join(module.split(".")[:2])}
                assert own_or_file & ALLOWED[room], f"{file} imports {module}"


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


def listed_packages():
    (listing,) = re.findall(r"^packages = \[(.*?)\]", PROJECT, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r'"([^"]+)"', listing)


def packages_of_the_tree():
    """Return the name that each folder with modules in it is installed under."""
    folders = {file.parent for room in ALLOWED for file in (ROOT / room).rglob("*.py")}
    names = (".".join(folder.relative_to(ROOT).parts) for folder in folders)
    return {name if name.split(".")[0] == "plasticity" else f"plasticity.{name}" for name in names}


def modules_of_the_tree():
    """Return the file of every module, by the name that it is installed under."""
    found = {}
    for room in ALLOWED:
        for file in (ROOT / room).rglob("*.py"):
            path = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(path[:-1] if path[-1] == "__init__" else path)
            found[name if room == "plasticity" else f"plasticity.{name}"] = file
    return found


# setuptools leaves a package that is not listed out of the wheel, and says nothing.
def test_pyproject_lists_every_package():
    assert sorted(listed_packages()) == sorted(packages_of_the_tree())


def test_every_package_says_what_it_holds():
    for room in ALLOWED:
        for folder in {file.parent for file in (ROOT / room).rglob("*.py")}:
            assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import plasticity

assert plasticity.__file__.startswith(sys.argv[1]), plasticity.__file__
found = ["plasticity"]
for module in pkgutil.walk_packages(plasticity.__path__, "plasticity."):
    found.append(module.name)
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # an extra's package, on a Python that has none
        if error.name.startswith("plasticity"):
            raise
print(*found)
"""


def test_the_wheel_holds_every_module(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    for room in ALLOWED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, source / room, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "install", *options, "--target", target, source], check=True)

    environment = os.environ | {"PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", IMPORT_EVERYTHING, str(target)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == modules_of_the_tree().keys()

    # Data files (py.typed, tuned settings) are left out as silently as packages that are not listed.
    data = [path for room in ALLOWED for path in (source / room).rglob("*") if path.is_file()]
    data = [path.relative_to(source) for path in data if path.suffix not in {".py", ".pyc"}]
    assert data
    for path in data:
        installed = path if path.parts[0] == "plasticity" else "plasticity" / path
        assert (target / installed).is_file(), f"pyproject.toml has no package-data for {path}"


def run_at_import(body):
    """Yield the statements that importing a module runs: neither functions' nor type checkers'."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from run_at_import(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            for field in ("body", "orelse", "finalbody", "handlers"):
                yield from run_at_import(getattr(node, field, []))


# Otherwise whether a module can be imported depends on which one was imported first.
def test_no_modules_import_each_other():
    modules = modules_of_the_tree()
    graph = TopologicalSorter()
    for name, file in modules.items():
        for node in run_at_import(ast.parse(file.read_text()).body):
            if isinstance(node, ast.ImportFrom):
                imported = (f"{node.module}.{alias.name}" for alias in node.names)
                graph.add(name, *(each if each in modules else node.module for each in imported))
    graph.prepare()  # raises CycleError, which names the modules


def test_every_dependency_is_explained_in_the_readme():
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    project = tomllib.loads(PROJECT)["project"]
    readme = (ROOT / "README.md").read_text()
    named = chain(project["dependencies"], *project["optional-dependencies"].values())
    for requirement in named:
        name = requirement.split(">")[0]
        assert name in readme, name


def docstrings_of(file):
    """Yield each docstring, and each string under a field or a constant, after its line."""
    for node in ast.walk(ast.parse(file.read_text())):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield node.lineno, value.value


def test_docstrings_begin_with_a_noun_or_a_verb():
    beginnings = (
        "Of",
        "As",
        "What",
        "How",
        "Which",
        "Where",
        "Who",
        "With",
        "By",
        "In",
        "For",
        "Its",
    )
    found = [
        f"{file.relative_to(ROOT)}:{line}: {text[:60]!r}"
        for folder in (*ALLOWED, "examples")
        for file in (ROOT / folder).rglob("*.py")
        for line, text in docstrings_of(file)
        if text.split(maxsplit=1)[0] in beginnings
    ]
    assert found == []


# Words that only this project used, each with the field's own.
REPLACED_WORDS = {
    "replica": "stacked",
    "replicas": "stacked",
    "undisturbed": "preserve_state",
    "footage": "video",
    "durable": "atomic_files",
    "company": "stacked",
    "told": "given, reported",
}


def test_identifiers_are_words_of_the_field():
    for folder in (*ALLOWED, "tests", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            with file.open("rb") as source:
                names = {t.string for t in tokenize.tokenize(source.readline) if t.type == NAME}
            names.update(file.relative_to(ROOT).with_suffix("").parts)
            words = {w.lower() for name in names for w in re.findall(r"[A-Z]?[a-z]+", name)}
            found = {word: better for word, better in REPLACED_WORDS.items() if word in words}
            assert not found, file


def test_every_source_file_has_its_tests():
    """tests/ mirrors the rooms, path by path: tests/room/kind/test_x.py for room/kind/x.py."""
    for room in ALLOWED:
        for file in (ROOT / room).rglob("*.py"):
            path = str(file.relative_to(ROOT))
            mirrored = ROOT / "tests" / file.relative_to(ROOT).with_name(f"test_{file.name}")
            if path in COVERED_ELSEWHERE:
                assert not mirrored.exists(), f"{path} has its own tests: take it off the list"
                mirrored = ROOT / "tests" / COVERED_ELSEWHERE[path]
            if file.stem != "__init__":
                assert mirrored.exists(), f"{path} has no {mirrored.relative_to(ROOT)}"
    assert [path for path in COVERED_ELSEWHERE if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("room", ALLOWED)
def test_every_test_file_tests_a_file(room):
    for test in (ROOT / "tests" / room).rglob("test_*.py"):
        tested = test.relative_to(ROOT / "tests")
        own = ROOT / tested.with_name(tested.name.removeprefix("test_"))
        assert own.exists() or str(tested) in {*COVERED_ELSEWHERE.values(), *OF_SEVERAL}, tested


# file: where it is tested, as its idea is part of another's
COVERED_ELSEWHERE = {
    "scripts/run/atomic_files.py": "scripts/run/test_folder.py",
    "scripts/run/events.py": "scripts/run/test_folder.py",
    "scripts/run/progress.py": "scripts/run/test_command.py",
    "scripts/report/axis.py": "scripts/report/test_run_folders.py",
    "scripts/report/arms.py": "scripts/report/test_command.py",
    "scripts/report/metric_names.py": "scripts/report/test_command.py",
    "scripts/report/contents.py": "scripts/report/test_command.py",
    "scripts/report/captions.py": "scripts/report/test_command.py",
    "scripts/report/html.py": "scripts/report/test_command.py",
    "scripts/reproduce/conclusion.py": "scripts/reproduce/test_command.py",
    "scripts/reproduce/estimate.py": "scripts/reproduce/test_command.py",
    "scripts/reproduce/record.py": "scripts/reproduce/test_page.py",
    "scripts/run/jobs.py": "scripts/run/test_stacks.py",
    "scripts/run/control_rows.py": "scripts/run/test_control_experiment.py",
    "agents/execution/measuring.py": "agents/supervised/test_trainer.py",
    "agents/networks/feedforward.py": "agents/networks/test_cnn.py",
    "tasks/control/ant/environment.py": "tasks/control/slippery/test_environment.py",
    "tasks/control/slippery/mujoco.py": "tasks/control/ant/test_mujoco.py",
    "tasks/control/ant/warp_kernels.py": "tasks/control/ant/test_warp.py",
    "tasks/control/humanoid/warp_kernels.py": "tasks/control/humanoid/test_warp.py",
    "tasks/control/slippery/warp_kernels.py": "tasks/control/slippery/test_warp.py",
    "agents/ppo/batch.py": "agents/ppo/test_policies.py",
    "agents/ppo/single_policy.py": "agents/ppo/test_policies.py",
    "agents/ppo/stacked_policies.py": "agents/ppo/test_policies.py",
    "scripts/bench/compiled.py": "scripts/bench/test_command.py",
    "plasticity/mitigations/attached_units.py": "plasticity/mitigations/test_attach.py",
    "scripts/bench/mitigations.py": "scripts/bench/test_command.py",
    "scripts/bench/memory.py": "scripts/bench/test_command.py",
    "scripts/bench/parallel.py": "scripts/bench/test_command.py",
    "scripts/bench/rows.py": "scripts/bench/test_command.py",
    "scripts/bench/steps.py": "scripts/bench/test_command.py",
    "scripts/bench/trainer.py": "scripts/bench/test_command.py",
    "scripts/bench/hardware.py": "scripts/bench/test_command.py",
    "plasticity/optim/joining.py": "plasticity/optim/test_regularizers.py",
    "plasticity/optim/saved_anchors.py": "plasticity/optim/test_regularized_groups.py",
    "plasticity/optim/initial_weights.py": "plasticity/optim/test_regularized_groups.py",
    "plasticity/optim/regularized_state.py": "plasticity/optim/test_regularized_groups.py",
    "plasticity/optim/optimizer.py": "plasticity/optim/test_regularizers.py",
    "plasticity/optim/kernels/table.py": "plasticity/optim/kernels/test_decay.py",
    "plasticity/optim/targets.py": "plasticity/optim/test_regularizers.py",
    "plasticity/optim/settings.py": "plasticity/optim/test_regularizers.py",
    "plasticity/optim/stacked_blocks.py": "plasticity/optim/test_stacked_optimizer.py",
    "agents/ppo/acting.py": "agents/ppo/test_base_agent.py",
    "agents/ppo/environments.py": "agents/ppo/test_host_environments.py",
    "agents/ppo/evaluation.py": "agents/ppo/test_agent.py",
    "scripts/run/control_environments.py": "scripts/run/test_control_experiment.py",
    "scripts/run/policy_metrics.py": "scripts/run/test_control_experiment.py",
    "plasticity/optim/stacked_requirements.py": "plasticity/optim/test_stacked_optimizer.py",
    "agents/supervised/task.py": "agents/supervised/test_trainer.py",
    "plasticity/metrics/event_files.py": "plasticity/metrics/test_tracker.py",
    "plasticity/precision.py": "plasticity/metrics/test_norms.py",
    "plasticity/metrics/measuring.py": "plasticity/metrics/test_tracker.py",
    "plasticity/metrics/registry.py": "plasticity/metrics/test_tracker.py",
    "plasticity/sb3/logging.py": "plasticity/sb3/test_callback.py",
    "plasticity/metrics/activations.py": "plasticity/metrics/test_capture.py",
    "plasticity/metrics/layer_names.py": "plasticity/metrics/test_capture.py",
    "plasticity/units/entry_rules.py": "plasticity/units/test_tracer.py",
    "plasticity/units/layout_rules.py": "plasticity/units/test_tracer.py",
    "plasticity/units/numbers.py": "plasticity/units/test_tracer.py",
    "plasticity/units/operation.py": "plasticity/units/test_tracer.py",
    "plasticity/units/record.py": "plasticity/units/test_tracer.py",
    "plasticity/units/weight_rules.py": "plasticity/units/test_tracer.py",
    "plasticity/units/weights.py": "plasticity/units/test_flow.py",
}

# Tests of what several files do as one.
OF_SEVERAL = {
    "agents/test_never_waits.py",
    "agents/supervised/test_two_forms.py",
    "agents/ppo/test_ppo_against_sb3.py",
    "plasticity/sb3/test_load.py",
    "plasticity/sb3/test_own_suite.py",
    "scripts/run/test_kills.py",
    "scripts/probe/test_normalization.py",
    "scripts/report/test_ant_report.py",
    "tasks/test_registration.py",
}


def test_the_page_of_mitigations_has_all_with_their_settings():
    rows = {}
    for line in (ROOT / "docs" / "mitigations.md").read_text().splitlines():
        if found := re.match(r"\| `([a-z0-9-]+)` \(", line):
            rows[found[1]] = set(re.findall(r"`([a-z-]+)` ", line.rsplit(" | ", 1)[1]))
    expected = {
        name: {each.name.replace("_", "-") for each in fields(kind)}
        for name, kind in MITIGATIONS.items()
    }
    assert rows == expected
