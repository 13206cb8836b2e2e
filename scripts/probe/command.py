"""Command `plasticity probe`: the plasticity sheet of a saved model, layer by layer."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plasticity.checks import require_integer
from plasticity.containers import finite_or_none, mapped
from plasticity.sb3.networks import policy_networks
from plasticity.scripts.probe.batch import (
    as_arguments,
    make_environment,
    play,
    play_randomly,
    read_observations,
    wrapped,
)
from plasticity.scripts.probe.checkpoint import load_module
from plasticity.scripts.probe.loading import (
    ProbeError,
    module_factory,
    require_file,
    require_finite,
)
from plasticity.scripts.probe.policy import SavedPolicy, is_policy_file
from plasticity.scripts.probe.sheet import THRESHOLDS, LayerSheet, Measures, Sheet, measure_sheet

RECURRENT = (
    "Observations are evaluated in the initial state of an episode: the policy's memory is ignored."
)
"""Note for recurrent policies."""

NORMALIZED = (
    "The model was trained in a VecNormalize, but was evaluated on unnormalised observations: pass the"
    " statistics with --vec-normalize, unless only rewards were normalised."
)
"""Note for models that were trained in a VecNormalize."""

PERHAPS_NORMALIZED = (
    "The file does not say whether the model was trained in a VecNormalize. If so, pass the statistics with"
    " --vec-normalize: it was evaluated on unnormalised observations."
)
"""Note for models that may have been trained in a VecNormalize."""

WIDTH_ELSEWHERE = 100
"""Width of the table, in characters, where the output is not a terminal."""


@dataclass(frozen=True)
class ProbeOptions:
    """Print the plasticity sheet of a saved model: ranks, dead units, norms, symmetry of each layer.

    The model is a zip file of Stable-Baselines3 or sb3-contrib; or, with --module, a torch checkpoint
    (including Lightning's .ckpt) or a .safetensors file.
    It is measured on observations from --env or --data, and compared with a freshly initialised network
    of the same architecture on the same observations.

    Loading a pickle runs its author's code. No pickle is loaded without --trust-pickle: the policies of
    Stable-Baselines3 do not need it, custom policy classes and features extractors do.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or options exclude each other.
    """

    model: tyro.conf.Positional[Path]
    """File of the model: model.zip of Stable-Baselines3, or a file written by torch.save."""

    env: str | None = None
    """Gymnasium id of the environment to collect observations from. A policy plays in it: a stochastic one
    samples its actions, without the exploration noise that DQN, TD3 or DDPG add in training. With --module,
    actions are uniformly random. "PACKAGE:ID" imports a package first."""

    env_kwargs: str = "{}"
    """Keyword arguments of the environment, in JSON: '{"friction": 0.1}'."""

    imports: tuple[str, ...] = ()
    """Modules to import first, to register environments."""

    data: Path | None = None
    """File of observations, instead of --env: .npy, .npz or .pt, with the batch as first axis."""

    steps: int = 1000
    """Number of observations to collect from --env, at least 2. No rank can exceed it."""

    seed: int = 0
    """Seed of the environment and of the actions, at least 0."""

    vec_normalize: Path | None = None
    """Saved VecNormalize that the model was trained in (a pickle, which needs --trust-pickle). Without it,
    such a model sees unnormalised observations."""

    module: str | None = None
    """Function or class that creates the network of a torch checkpoint, such as "my.networks:make"."""

    module_kwargs: str = "{}"
    """Keyword arguments of --module, in JSON."""

    state_key: str | None = None
    """Keys, joined by dots, of the network's weights in the checkpoint. None: search for them."""

    prefix: str | None = None
    """Prefix of the names of the network's weights in the checkpoint: "model." if a Lightning module has
    the network as self.model. Other names are ignored. None: search for it."""

    trust_pickle: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Load pickles in the files too. They run their authors' code: use it only for files that you trust."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON and nothing else."""

    def __post_init__(self) -> None:
        require_integer("--steps", self.steps, minimum=2)
        require_integer("--seed", self.seed, minimum=0, maximum=2**32 - 1)
        if (self.env is None) == (self.data is None):
            raise ValueError(
                "Pass the observations to probe on: either --env ID (of Gymnasium) or --data FILE, not both."
            )
        if self.data is not None and self.vec_normalize is not None:
            raise ValueError(
                "--vec-normalize needs --env: observations of --data are passed to the model as they are."
            )
        for name in ("env_kwargs", "module_kwargs"):
            _keywords(name, getattr(self, name))


def probe(options: ProbeOptions) -> Sheet:
    """Measure a saved model and print its sheet.

    Args:
        options: Model, observations, and output format.

    Returns:
        The sheet that was printed.

    Raises:
        ValueError: if the model or the observations cannot be read or do not fit; with the remedy.
        TypeError: if the network cannot be traced.
        OSError: if a file cannot be read.
    """
    with _stdout_to_stderr() if options.json else nullcontext():
        sheet, title = _measured(options)
    if options.json:
        record = mapped(finite_or_none, _record(sheet, title, options))
        print(json.dumps(record, indent=2, allow_nan=False))
    else:
        _print(sheet, title)
    return sheet


def _measured(options: ProbeOptions) -> tuple[Sheet, str]:
    """Return the sheet, and a title that names the model and its observations."""
    file = options.model
    require_file(file)
    if is_policy_file(file):
        return _measured_policy(options)
    return _measured_module(options)


def _measured_policy(options: ProbeOptions) -> tuple[Sheet, str]:
    if options.module is not None:
        raise ProbeError(
            f"{options.model} is a model of Stable-Baselines3, which needs no --module: leave it out."
        )
    saved = SavedPolicy(options.model, trust=options.trust_pickle)
    if options.env is not None:
        venv = wrapped(_environment(options), options.vec_normalize, trust=options.trust_pickle)
        try:
            policy, fresh = saved.build(venv.observation_space, venv.action_space)
            require_finite(policy, options.model)
            observations = play(policy, venv, options.steps, options.seed)
        finally:
            venv.close()
    else:
        assert options.data is not None
        observations = read_observations(options.data)
        policy, fresh = saved.build()
        require_finite(policy, options.model)
    networks = policy_networks(policy.eval())
    arguments = networks.inputs(networks.observations_to_tensor(observations))
    try:
        layers = networks.hidden_layers(arguments)
    except ValueError as error:
        raise ProbeError(
            f"{options.model} has no hidden layer (an empty net_arch?): there are no units to measure."
        ) from error
    sheet = measure_sheet(networks, arguments, policy_networks(fresh), layers)
    if len(arguments) > 2:
        sheet = replace(sheet, notes=(*sheet.notes, RECURRENT))
    if options.env is not None and options.vec_normalize is None:
        note = {True: (NORMALIZED,), False: (), None: (PERHAPS_NORMALIZED,)}[saved.was_normalized]
        sheet = replace(sheet, notes=(*sheet.notes, *note))
    return sheet, f"{type(policy).__name__} in {options.model}, {_source(options)}"


def _measured_module(options: ProbeOptions) -> tuple[Sheet, str]:
    if options.vec_normalize is not None:
        raise ProbeError("--vec-normalize needs a model of Stable-Baselines3: leave it out.")
    factory = None
    if options.module is not None:
        keywords = _keywords("module_kwargs", options.module_kwargs)
        factory = module_factory(options.module, keywords)
    model, fresh = load_module(
        options.model,
        factory,
        state_key=options.state_key,
        prefix=options.prefix,
        trust=options.trust_pickle,
    )
    require_finite(model, options.model)
    if options.env is not None:
        environment = _environment(options)
        try:
            observations: Any = play_randomly(environment, options.steps, options.seed)
        finally:
            environment.close()
    else:
        assert options.data is not None
        observations = read_observations(options.data)
    sheet = measure_sheet(model, as_arguments(observations, model), fresh)
    return sheet, f"{type(model).__name__} in {options.model}, {_source(options)}"


def _environment(options: ProbeOptions) -> gymnasium.Env[Any, Any]:
    assert options.env is not None
    keywords = _keywords("env_kwargs", options.env_kwargs)
    return make_environment(options.env, keywords, options.imports)


def _source(options: ProbeOptions) -> str:
    if options.env is None:
        return f"on the observations in {options.data}"
    return f"on {options.steps} observations of {options.env} (seed {options.seed})"


def _keywords(name: str, text: str) -> dict[str, Any]:
    option = f"--{name.replace('_', '-')}"
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{option} {text} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise TypeError(f"{option} {text}: pass a JSON object, such as '{{\"hidden\": 64}}'.")
    return found


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirect output of environments to stderr, including that of C code (such as Bullet)."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
        ctypes.CDLL(None).fflush(None)  # flush the buffers of C code
    finally:
        os.dup2(saved, 1)
        os.close(saved)


# ---- the output -------------------------------------------------------------------------------------


def _record(sheet: Sheet, title: str, options: ProbeOptions) -> dict[str, Any]:
    source = (
        {"data": str(options.data)}
        if options.env is None
        else {"env": options.env, "steps": options.steps, "seed": options.seed}
    )
    return {
        "title": title,
        "model": str(options.model),
        "probe": source,
        "layers": [asdict(layer) for layer in sheet.layers],
        "findings": sheet.findings,
        "notes": list(sheet.notes),
        "thresholds": asdict(THRESHOLDS),
    }


def _print(sheet: Sheet, title: str) -> None:
    console = Console(
        width=None if sys.stdout.isatty() else WIDTH_ELSEWHERE, highlight=False, emoji=False
    )
    console.print(Text(title, style="bold"))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column(Text("layer"), overflow="fold")
    for name in COLUMNS:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for layer in sheet.layers:
        for row in _rows(layer):
            table.add_row(*row)
    console.print(table)
    for note in sheet.notes:
        console.print(Text(f"• {note}", style="dim"))
    if not sheet.findings:
        console.print(Text("No findings: all measures are within the thresholds."))
        return
    console.print(Text("What is wrong, by rules of thumb:", style="bold"))
    for finding in sheet.findings:
        console.print(Text(f"• {finding}."), soft_wrap=True)


COLUMNS = (
    "effective\nrank",
    "stable\nrank",
    "srank",
    "dead\n(%)",
    "dormant\n(%)",
    "weight\nnorm",
    "feature\nnorm",
    "symmetric\npairs",
)


def _rows(layer: LayerSheet) -> Iterator[list[Text]]:
    """Yield two rows of the table: the layer, and the same layer at initialisation where it is known."""
    symmetry = layer.symmetry
    pairs = f"{symmetry.degree}/{symmetry.possible}" if symmetry else ""
    values = _formatted(layer.measures, layer.weight_norm)
    yield [Text(each) for each in (layer.layer, *values, pairs)]
    kind = layer.activation or ("units" if layer.measures else "output")
    if layer.measures is not None:
        kind = f"{layer.measures.units} {kind}"
    elif layer.weight_norm is None:
        kind = "attention"
    if layer.initial_weight_norm is not None or layer.initial is not None:
        kind += ", initially"
    initial = _formatted(layer.initial, layer.initial_weight_norm)
    yield [Text(each, style="dim") for each in (f"  {kind}", *initial, "")]


def _formatted(measures: Measures | None, weight_norm: float | None) -> list[str]:
    weights = "" if weight_norm is None else f"{weight_norm:.3g}"
    if measures is None:
        return ["", "", "", "", "", weights, ""]
    return [
        f"{measures.effective_rank:.1f}",
        f"{measures.stable_rank:.2f}",
        str(measures.srank),
        f"{100 * measures.dead_fraction:.0f}",
        f"{100 * measures.dormant_fraction:.0f}",
        weights,
        f"{measures.feature_norm:.3g}",
    ]
