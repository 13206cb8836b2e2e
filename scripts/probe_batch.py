"""The observations that a network is probed on: played in an environment, or read from a file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor, nn

from plasticity.scripts.probe_loading import TRUST, ProbeError, import_module, read_weights

Observations: TypeAlias = np.ndarray | dict[str, np.ndarray]


def make_environment(
    name: str, keywords: Mapping[str, Any], imports: Sequence[str]
) -> gymnasium.Env[Any, Any]:
    """Make an environment by its Gymnasium id, ours included.

    Args:
        name: An id; ``module:id`` imports the module that registers it.
        keywords: Of the environment.
        imports: Modules to import first.

    Raises:
        ProbeError: if there is none, or it cannot be made so.
    """
    for module in ("plasticity.tasks", *imports, *name.split(":")[:-1]):
        import_module(module, "--imports")
    try:
        # Without the checker, which warns of faults of the environment: here the network is looked at.
        return gymnasium.make(name.rpartition(":")[2], disable_env_checker=True, **keywords)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        raise ProbeError(
            f"--env {name} cannot be made: {error} A package that registers it is imported by"
            " --imports PACKAGE."
        ) from error


def wrapped(
    environment: gymnasium.Env[Any, Any], vec_normalize: Path | None, *, trust: bool
) -> VecEnv:
    """As Stable-Baselines3's algorithms wrap it: images channels first, observations normalised.

    Args:
        environment: To wrap.
        vec_normalize: Saved statistics of a `VecNormalize`, which is a pickle. None: there is none.
        trust: Whether it may be loaded.

    Raises:
        ProbeError: if it may not or cannot be.
    """
    venv = BaseAlgorithm._wrap_env(environment, monitor_wrapper=False)
    if vec_normalize is None:
        return venv
    if not trust:
        raise ProbeError(
            f"--vec-normalize {vec_normalize} is a pickle, which runs its author's code: give {TRUST}"
            " if you trust the file."
        )
    try:
        normalized = VecNormalize.load(str(vec_normalize), venv)
    except OSError:
        raise
    except Exception as error:  # whatever a broken pickle raises
        raise ProbeError(f"--vec-normalize {vec_normalize} cannot be loaded: {error}") from error
    normalized.training = False
    return normalized


def play(policy: BasePolicy, venv: VecEnv, steps: int, seed: int) -> Observations:
    """The observations that a policy meets, its actions drawn as in training.

    Args:
        policy: Of Stable-Baselines3 or sb3-contrib.
        venv: One environment, wrapped.
        steps: Number of observations.
        seed: Of the environment and of the actions.

    Returns:
        As ``policy.predict`` takes them. Shape: (steps, *observation), or a dictionary of such.
    """
    keywords: dict[str, Any] = {}
    is_masked = "action_masks" in inspect.signature(policy.predict).parameters
    is_masked = is_masked and venv.has_attr("action_masks")
    state, starts = None, np.ones(venv.num_envs, dtype=bool)
    rows = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        venv.seed(seed)
        observation: Any = venv.reset()
        for _ in range(steps):
            rows.append(_copied(observation))
            if is_masked:
                keywords["action_masks"] = np.stack(venv.env_method("action_masks"))
            action, state = policy.predict(observation, state, starts, **keywords)
            observation, _, starts, _ = venv.step(action)
    return _joined(rows, np.concatenate)


def play_randomly(environment: gymnasium.Env[Any, Any], steps: int, seed: int) -> Observations:
    """The observations met by actions drawn uniformly: what a bare network's outputs mean is not known.

    Args:
        environment: As made.
        steps: Number of observations.
        seed: Of the environment and of the actions.

    Returns:
        Shape: (steps, *observation), or a dictionary of such.
    """
    environment.action_space.seed(seed)
    observation, _ = environment.reset(seed=seed)
    rows = []
    for _ in range(steps):
        rows.append(_copied(observation))
        observation, _, terminated, truncated, _ = environment.step(
            environment.action_space.sample()
        )
        if terminated or truncated:
            observation, _ = environment.reset()
    return _joined(rows, np.stack)


def read_observations(file: Path) -> Any:
    """A probe batch from a file; nothing is unpickled.

    Args:
        file: ``.npy``, ``.npz`` (one array; or several, a dictionary of observations), or ``.pt`` with a
            tensor, a dictionary of tensors or a tuple of arguments.

    Raises:
        ProbeError: if it is none of these, or is broken.
        OSError: if it cannot be read.
    """
    if file.suffix in (".pt", ".pth"):
        with file.open("rb") as stream:
            return read_weights(stream, f"--data {file}", remedy="Save tensors alone.")
    if file.suffix not in (".npy", ".npz"):
        raise ProbeError(f"--data {file}: give a .npy, .npz or .pt file.")
    try:
        with file.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            arrays = {name: content[name] for name in content.files}
    except OSError:
        raise
    except Exception as error:  # zip, header, pickle: whatever a broken file raises
        raise ProbeError(f"--data {file} holds no whole arrays of numbers: {error}") from error
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def as_arguments(observations: Any, model: nn.Module) -> tuple[Any, ...]:
    """Observations as arguments of a network's forward, real numbers in the dtype of its weights."""
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


def _copied(observation: Any) -> Any:
    if isinstance(observation, Mapping):
        return {name: np.array(each) for name, each in observation.items()}
    return np.array(observation)


def _joined(rows: list[Any], join: Any) -> Observations:
    if isinstance(rows[0], Mapping):
        return {name: join([row[name] for row in rows]) for name in rows[0]}
    joined: np.ndarray = join(rows)
    return joined
