"""`plasticity probe`: the plasticity sheet of a saved model, layer by layer."""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plasticity.checks import require_integer
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
    "Each observation is met in the state of an episode's start: the policy's memory is left out."
)
"""Note on recurrent policies."""

NORMALIZED = (
    "The model was trained in a VecNormalize, and here it met observations as the environment gives them:"
    " give the statistics by --vec-normalize, unless rewards alone were normalised."
)
"""Note on models that were trained in a VecNormalize."""

PERHAPS_NORMALIZED = (
    "Its file does not tell whether the model was trained in a VecNormalize. If it was, give the statistics"
    " by --vec-normalize: here it met observations as the environment gives them."
)
"""Note on models that may have been."""

WIDTH_ELSEWHERE = 100
"""Columns of the table where the output is no terminal."""


@dataclass(frozen=True)
class ProbeOptions:
    """Print the plasticity sheet of a saved model: ranks, dead units, norms, symmetry of each layer.

    The model is a zip file of Stable-Baselines3 or sb3-contrib; or, with --module, a torch checkpoint,
    Lightning's .ckpt included, or a .safetensors file.
    It is measured on observations of --env or --data, and judged against a freshly initialised network
    of the same shape on the same observations.

    A pickle in a file runs its author's code. Without --trust-pickle none is loaded: the policies of
    Stable-Baselines3 do without, a policy class or features extractor of your own does not.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the options do not go together.
    """

    model: tyro.conf.Positional[Path]
    """File of the model: model.zip of Stable-Baselines3, or what torch.save wrote."""

    env: str | None = None
    """Gymnasium id of the environment to take observations from: the policy plays in it, drawing its
    actions where it is stochastic, without the exploration that DQN, TD3 or DDPG add in training; for a
    --module actions are uniformly random. "PACKAGE:ID" imports a package."""

    env_kwargs: str = "{}"
    """Keywords of the environment, in JSON: '{"friction": 0.1}'."""

    imports: tuple[str, ...] = ()
    """Modules to import first, which register environments."""

    data: Path | None = None
    """File of observations, in place of --env: .npy, .npz or .pt, the batch as first axis."""

    steps: int = 1000
    """Observations to take from --env, at least 2. No rank can be above their number."""

    seed: int = 0
    """Of the environment and of the actions. At least 0."""

    vec_normalize: Path | None = None
    """Saved VecNormalize that the model was trained in (a pickle: it needs --trust-pickle). Without it,
    such a model sees observations that it does not know."""

    module: str | None = None
    """Makes the network of a torch checkpoint: "my.networks:make", a function or class."""

    module_kwargs: str = "{}"
    """Keywords of --module, in JSON."""

    state_key: str | None = None
    """Keys, with dots between, under which the checkpoint has the network's weights. None: they are
    looked for."""

    prefix: str | None = None
    """What the names of the network's weights begin with in the checkpoint: "model." where a Lightning
    module has the network as self.model. Other names are left out. None: it is looked for."""

    trust_pickle: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Load pickles in the files too. They run their authors' code: only for files that you trust."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON, and nothing else."""

    def __post_init__(self) -> None:
        require_integer("--steps", self.steps, minimum=2)
        require_integer("--seed", self.seed, minimum=0, maximum=2**32 - 1)
        if (self.env is None) == (self.data is None):
            raise ValueError(
                "Give the observations to probe on: --env ID (of Gymnasium), or --data FILE, not both."
            )
        if self.data is not None and self.vec_normalize is not None:
            raise ValueError(
                "--vec-normalize goes with --env: observations of --data are taken as the model's input."
            )
        for name in ("env_kwargs", "module_kwargs"):
            _keywords(name, getattr(self, name))


def probe(options: ProbeOptions) -> Sheet:
    """Measure a saved model, and print its sheet.

    Args:
        options: What to measure, and on what.

    Returns:
        What was printed.

    Raises:
        ValueError: if the model or the observations cannot be read or do not fit, with the remedy.
        TypeError: if the network cannot be looked into.
        OSError: if a file cannot be read.
    """
    with _stdout_to_stderr() if options.json else nullcontext():
        sheet, title = _measured(options)
    if options.json:
        print(json.dumps(_plain(_record(sheet, title, options)), indent=2, allow_nan=False))
    else:
        _print(sheet, title)
    return sheet


def _measured(options: ProbeOptions) -> tuple[Sheet, str]:
    """The sheet, and what it is of."""
    file = options.model
    require_file(file)
    if is_policy_file(file):
        return _measured_policy(options)
    return _measured_module(options)


def _measured_policy(options: ProbeOptions) -> tuple[Sheet, str]:
    if options.module is not None:
        raise ProbeError(
            f"{options.model} is a model of Stable-Baselines3, which needs no --module."
        )
    saved = SavedPolicy(options.model, trust=options.trust_pickle)
    if options.env is not None:
        keywords = _keywords("env_kwargs", options.env_kwargs)
        environment = make_environment(options.env, keywords, options.imports)
        venv = wrapped(environment, options.vec_normalize, trust=options.trust_pickle)
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
        raise ProbeError("--vec-normalize goes with a model of Stable-Baselines3.")
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
        keywords = _keywords("env_kwargs", options.env_kwargs)
        environment = make_environment(options.env, keywords, options.imports)
        try:
            observations: Any = play_randomly(environment, options.steps, options.seed)
        finally:
            environment.close()
    else:
        assert options.data is not None
        observations = read_observations(options.data)
    sheet = measure_sheet(model, as_arguments(observations, model), fresh)
    return sheet, f"{type(model).__name__} in {options.model}, {_source(options)}"


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
        raise TypeError(f"{option} {text}: give a JSON object, such as '{{\"hidden\": 64}}'.")
    return found


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send aside what environments print, from C too (as Bullet does): the output is for JSON."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
        ctypes.CDLL(None).fflush(None)  # what C has printed and not yet written
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


def _plain(value: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
        console.print(Text("Nothing is wrong by the thresholds of this sheet."))
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
    """Two rows of the table: the layer, and the same at initialisation where that is known."""
    symmetry = layer.symmetry
    pairs = f"{symmetry.degree}/{symmetry.possible}" if symmetry else ""
    figures = _figures(layer.measures, layer.weight_norm)
    yield [Text(each) for each in (layer.layer, *figures, pairs)]
    kind = layer.activation or ("units" if layer.measures else "output")
    if layer.measures is not None:
        kind = f"{layer.measures.units} {kind}"
    elif layer.weight_norm is None:
        kind = "attention"
    if layer.initial_weight_norm is not None or layer.initial is not None:
        kind += ", initially"
    initial = _figures(layer.initial, layer.initial_weight_norm)
    yield [Text(each, style="dim") for each in (f"  {kind}", *initial, "")]


def _figures(measures: Measures | None, weight_norm: float | None) -> list[str]:
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
