"""Observations that a network is probed on: collected in an environment, or read from a file."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor, nn

from plasticity.scripts.probe.loading import (
    TRUST,
    ProbeError,
    import_module,
    in_short,
    read_weights,
    require_modest,
)

Observations: TypeAlias = np.ndarray | dict[str, np.ndarray]


def make_environment(
    name: str, keywords: Mapping[str, Any], imports: Sequence[str]
) -> gymnasium.Env[Any, Any]:
    """Create an environment by its Gymnasium id; those of this package are registered.

    Args:
        name: Id of the environment; ``module:id`` imports the module that registers it.
        keywords: Keyword arguments of the environment.
        imports: Modules to import first.

    Raises:
        ProbeError: if the id is unknown, or the environment cannot be created.
    """
    for module in ("plasticity.tasks", *imports):
        import_module(module, "--imports")
    for module in name.split(":")[:-1]:
        import_module(module, "--env")
    try:
        # Without the checker, whose warnings concern the environment and not the network.
        return gymnasium.make(name.rpartition(":")[2], disable_env_checker=True, **keywords)
    except gymnasium.error.Error as error:
        raise ProbeError(
            f"--env {name} cannot be created: {error} Import the package that registers it with"
            " --imports PACKAGE."
        ) from error
    except Exception as error:  # whatever its author's code raises
        raise ProbeError(f"--env {name} cannot be created: {in_short(error)}") from error


def wrapped(
    environment: gymnasium.Env[Any, Any], vec_normalize: Path | None, *, trust: bool
) -> VecEnv:
    """Wrap an environment as Stable-Baselines3 does: images channels first, observations normalised.

    Args:
        environment: Environment to wrap.
        vec_normalize: File of a saved `VecNormalize`, which is a pickle. None: do not normalise.
        trust: Whether the pickle may be loaded.

    Raises:
        ProbeError: if the pickle may not or cannot be loaded, or wrapping fails.
    """
    with _failures("when Stable-Baselines3 wrapped it"):
        venv = BaseAlgorithm._wrap_env(environment, monitor_wrapper=False)
    if vec_normalize is None:
        return venv
    if not trust:
        raise ProbeError(
            f"--vec-normalize {vec_normalize} is a pickle, which runs its author's code: pass {TRUST}"
            " if you trust the file."
        )
    try:
        normalized = VecNormalize.load(str(vec_normalize), venv)
    except OSError:
        raise
    except Exception as error:  # whatever a broken pickle raises
        raise ProbeError(
            f"--vec-normalize {vec_normalize} cannot be loaded: {error} Pass what VecNormalize.save wrote."
        ) from error
    normalized.training = False
    return normalized


def play(policy: BasePolicy, venv: VecEnv, steps: int, seed: int) -> Observations:
    """Collect the observations of a policy that plays; actions of a stochastic policy are sampled.

    Exploration that an algorithm adds in training (DQN's random actions, TD3's noise) is left out.

    Args:
        policy: Policy of Stable-Baselines3 or sb3-contrib.
        venv: Wrapped environment, a single one.
        steps: Number of observations.
        seed: Seed of the environment and of the actions.

    Returns:
        Observations as ``policy.predict`` takes them. Shape: (steps, *observation), or a dictionary of
        such arrays.

    Raises:
        ProbeError: if the environment fails, or an observation is not finite.
    """
    keywords: dict[str, Any] = {}
    is_masked = "action_masks" in inspect.signature(policy.predict).parameters
    is_masked = is_masked and venv.has_attr("action_masks")
    state, starts = None, np.ones(venv.num_envs, dtype=bool)
    rows = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if getattr(getattr(policy, "actor", policy), "use_sde", False):
            # gSDE's noise is sampled in advance; the present one is from the deviations before training.
            policy.reset_noise()  # type: ignore[operator]
        with _failures("in its reset"):
            venv.seed(seed)
            observation: Any = venv.reset()
        for step in range(steps):
            rows.append(_copied(observation, step))
            if is_masked:
                with _failures(f"giving its action masks in step {step}"):
                    keywords["action_masks"] = np.stack(venv.env_method("action_masks"))
            action, state = policy.predict(observation, state, starts, **keywords)
            with _failures(f"in step {step}"):
                observation, _, starts, _ = venv.step(action)
    return _joined(rows, np.concatenate)


def play_randomly(environment: gymnasium.Env[Any, Any], steps: int, seed: int) -> Observations:
    """Collect observations with uniformly random actions, for networks whose outputs may not be actions.

    Args:
        environment: Environment as returned by `make_environment`.
        steps: Number of observations.
        seed: Seed of the environment and of the actions.

    Returns:
        Observations. Shape: (steps, *observation), or a dictionary of such arrays.

    Raises:
        ProbeError: as for `play`.
    """
    with _failures("in its reset"):
        environment.action_space.seed(seed)
        observation, _ = environment.reset(seed=seed)
    rows = []
    for step in range(steps):
        rows.append(_copied(observation, step))
        with _failures(f"in step {step}"):
            observation, _, terminated, truncated, _ = environment.step(
                environment.action_space.sample()
            )
            if terminated or truncated:
                observation, _ = environment.reset()
    return _joined(rows, np.stack)


def read_observations(file: Path) -> Any:
    """Read a probe batch from a file; nothing is unpickled.

    Args:
        file: ``.npy``, ``.npz`` (one array; or several, a dictionary of observations), or ``.pt`` with a
            tensor, a dictionary of tensors or a tuple of arguments.

    Raises:
        ProbeError: if the file has another suffix, is broken, or has observations that are not finite.
        OSError: if the file cannot be read.
    """
    if file.suffix in (".pt", ".pth"):
        with file.open("rb") as stream:
            loaded = read_weights(stream, f"--data {file}", remedy="Save only tensors.")
        return _finite(loaded, f"--data {file}")
    if file.suffix not in (".npy", ".npz"):
        raise ProbeError(f"--data {file}: pass a .npy, .npz or .pt file.")
    try:
        with file.open("rb") as stream:
            require_modest(stream, f"--data {file}")
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return _finite(content, f"--data {file}")
            arrays = {name: content[name] for name in content.files}
    except (OSError, ProbeError):
        raise
    except Exception as error:  # zip, header, pickle: whatever a broken file raises
        raise ProbeError(
            f"--data {file} does not contain intact arrays of numbers: {error}"
        ) from error
    return _finite(next(iter(arrays.values())) if len(arrays) == 1 else arrays, f"--data {file}")


def as_arguments(observations: Any, model: nn.Module) -> tuple[Any, ...]:
    """Return observations as arguments of a network's forward, with floats in the dtype of its weights."""
    dtypes = [parameter.dtype for parameter in model.parameters()]
    dtype = next((each for each in dtypes if each.is_floating_point), torch.float32)

    def converted(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: converted(each) for name, each in value.items()}
        if isinstance(value, (tuple, list)):
            return tuple(converted(each) for each in value)
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    arguments = converted(observations)
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _copied(observation: Any, step: int) -> Any:
    where = f"The observation of the environment in step {step}"
    if isinstance(observation, Mapping):
        return _finite({name: np.array(each) for name, each in observation.items()}, where)
    return _finite(np.array(observation), where)


def _finite(observations: Any, where: str) -> Any:
    """Return the observations, or raise a ProbeError if they contain NaN or infinite numbers."""
    values = [observations]
    if isinstance(observations, Mapping):
        values = list(observations.values())
    elif isinstance(observations, (tuple, list)):
        values = list(observations[:1])  # further arguments of a forward may be masks of -inf
    for value in values:
        if isinstance(value, Tensor):
            is_finite = bool(value.isfinite().all())
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            is_finite = bool(np.isfinite(value).all())
        else:
            continue
        if not is_finite:
            raise ProbeError(
                f"{where} contains NaN or infinite numbers: no layer can be measured on it. Remove them."
            )
    return observations


@contextmanager
def _failures(when: str) -> Iterator[None]:
    """Turn any exception of an environment into a ProbeError that says when it failed."""
    try:
        yield
    except Exception as error:
        raise ProbeError(f"The environment failed {when}: {in_short(error)}") from error


def _joined(rows: list[Any], join: Any) -> Observations:
    if isinstance(rows[0], Mapping):
        return {name: join([row[name] for row in rows]) for name in rows[0]}
    joined: np.ndarray = join(rows)
    return joined
