"""Stable-Baselines3 policies with regularized optimizers: `policy_kwargs`, and `load` for saved models."""

from __future__ import annotations

import difflib
import inspect
import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import json_to_data, open_path
from torch.optim import Optimizer

from plasticity.checks import nearest
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.settings import SETTING_NAMES, RegularizerSettings
from plasticity.sb3.optimizer import policy_optimizer

AlgorithmT = TypeVar("AlgorithmT", bound=BaseAlgorithm)


def policy_kwargs(
    algorithm: type[BaseAlgorithm],
    *,
    regularizer: str | None = None,
    strength: float | None = None,
    sigma: float = RegularizerSettings.sigma,
    anisotropy: float = RegularizerSettings.anisotropy,
    decoupled: bool | None = None,
    anchor_seed: int | None = None,
    actor: Mapping[str, Any] | None = None,
    critic: Mapping[str, Any] | None = None,
    optimizer_class: type[Optimizer] | None = None,
    optimizer_kwargs: Mapping[str, Any] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Make the `policy_kwargs` with which an algorithm regularizes its networks.

    The optimizer and its settings remain those that Stable-Baselines3 would use (Adam with eps=1e-5 for
    PPO, RMSprop for A2C): with regularizer="none", a model trains bit for bit as it would without these
    `policy_kwargs`. The groups are built with the policy, so `PPO.load(path)` alone restores them, and
    saved settings and anchors replace the present ones, as torch does with a learning rate.
    `describe_groups(model.policy.optimizer)` shows the settings of each group; SAC, TD3, DDPG and TQC
    have two optimizers, `model.policy.actor.optimizer` and `model.policy.critic.optimizer`.

    - Not regularized: a `log_std` that is a parameter, normalisation layers, SAC's entropy coefficient,
      and target networks, which belong to no optimizer.
    - A features extractor shared by actor and critic is treated as part of the actor.
    - DQN and QR-DQN have only a critic.
    - **TRPO** does not update its actor with the optimizer (it takes natural-gradient steps instead), so
      only the critic can be regularized, without the features extractor if the actor shares it
      (`share_features_extractor=False` makes separate ones). A setting for the actor raises a warning.
    - Gradients are clipped (`max_grad_norm`) before the decay is added, as with torch's own decay.
    - Saved settings take precedence over those passed when loading. To change one afterwards:
      ``for group in model.policy.optimizer.param_groups: group["strength"] = 1e-4`` (each group has a
      ``name``, "actor", "critic" or "left alone").
    - To continue from a model saved without this package: `load(PPO, path, …)`.

    The plain form also works,
    `dict(optimizer_class=regularized(torch.optim.Adam), optimizer_kwargs=dict(regularizer="syre", …))`,
    with these differences: Adam's eps in PPO and other on-policy algorithms is torch's 1e-8 instead of
    Stable-Baselines3's 1e-5 (pass `eps=1e-5`); A2C no longer uses RMSprop; actor and critic are not
    distinguished; normalisation layers are regularized; so is `log_std`, except with syre, which leaves it
    alone because it comes before any weight (but not with `use_sde=True`, which makes it a matrix); a
    features extractor shared by TD3's actor and critic is decayed by both, toward two anchors; and TRPO's
    actor is not regularized, without a warning.

    Args:
        algorithm: PPO, A2C, DQN, SAC, TD3, DDPG; sb3-contrib's TQC, TRPO, RecurrentPPO, MaskablePPO,
            QRDQN, CrossQ; or a subclass of one of them.
        regularizer: Regularizer of actor and critic: "none" (the default), "weight-decay", "syre" or
            "l2-init".
        strength: Strength, as torch's `weight_decay`. Required with a regularizer; 0 switches it off.
        sigma: Spread of syre's anchor, relative to the usual initialisation; effects were seen from 0.3 on.
        anisotropy: Anisotropy of syre's decay (Eq. 7 of the paper).
        decoupled: Whether the decay is separate from the gradient, as in AdamW. None: as in the
            optimizer's own decay.
        anchor_seed: Seed from which actor and critic derive child seeds. None: `torch.initial_seed()`, which
            is the algorithm's `seed`, or without one torch's default, the same in every process.
        actor: Settings, by the names above, that differ for the actor.
        critic: Settings, by the names above, that differ for the critic.
        optimizer_class: Base to use instead of Stable-Baselines3's: a class of torch, or one defined at the
            top level of an importable module, since a saved model finds it by name.
        optimizer_kwargs: Settings of the base, added to Stable-Baselines3's own. (With `policy_kwargs`,
            A2C's `rms_prop_eps` and `use_rms_prop`, and QR-DQN's batch size, which determines its eps, have
            no effect: pass eps or the class here.)
        **others: Further arguments of the algorithm's policies: `net_arch`, `activation_fn`, …

    Returns:
        A dict for the algorithm's `policy_kwargs`.

    Raises:
        TypeError: if the algorithm is not one of Stable-Baselines3's, a setting has the wrong type, or a
            name is unknown (the nearest is named).
        ValueError: if a setting is out of range or inconsistent with the others, or if a saved model could
            not find `optimizer_class` in another process.

    Examples:
        >>> from stable_baselines3 import SAC
        >>> actor = {"regularizer": "syre", "strength": 1e-3, "sigma": 0.3}
        >>> kwargs = policy_kwargs(SAC, actor=actor, net_arch=[64])
        >>> model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs)
    """
    _require_algorithm(algorithm)
    _require_known_names(algorithm, others)
    _require_base_settings(optimizer_kwargs or {})
    common = {
        "regularizer": regularizer,
        "strength": strength,
        "sigma": sigma,
        "anisotropy": anisotropy,
        "decoupled": decoupled,
        "anchor_seed": anchor_seed,
    }
    settings = _settings_of_both(algorithm, common, {"actor": actor, "critic": critic})
    base, base_kwargs = _default_optimizer(algorithm, optimizer_class)
    _require_importable(base)
    return {
        **others,
        "optimizer_class": policy_optimizer(base),
        "optimizer_kwargs": {
            **base_kwargs,
            **(optimizer_kwargs or {}),
            **{role: asdict(chosen) for role, chosen in settings.items()},
        },
    }


def load(
    algorithm: type[AlgorithmT],
    path: str | Path | BufferedIOBase,
    *,
    regularizer: str | None = None,
    strength: float | None = None,
    sigma: float = RegularizerSettings.sigma,
    anisotropy: float = RegularizerSettings.anisotropy,
    decoupled: bool | None = None,
    anchor_seed: int | None = None,
    actor: Mapping[str, Any] | None = None,
    critic: Mapping[str, Any] | None = None,
    optimizer_kwargs: Mapping[str, Any] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> AlgorithmT:
    """Load a model that was saved without this package, and regularize it from then on.

    The policy keeps all of its saved `policy_kwargs`, and the optimizer its saved settings, learning rate
    and moments. Once the model is saved again, `PPO.load(path)` alone restores it. `plasticity strip` does
    the reverse. As with `PPO.load`, pickles in the file are loaded.

    Args:
        algorithm: Class that saved the file, as for `policy_kwargs`.
        path: File, as for `algorithm.load`.
        regularizer: Regularizer, as for `policy_kwargs`, like the next seven arguments. "l2-init" is
            rejected, since the initial weights are not in the file.
        strength: Strength, as torch's `weight_decay`.
        sigma: Spread of syre's anchor.
        anisotropy: Anisotropy of syre's decay (Eq. 7 of the paper).
        decoupled: Whether the decay is separate from the gradient.
        anchor_seed: Seed from which actor and critic derive child seeds. None: the seed of the saved model.
        actor: Settings that differ for the actor.
        critic: Settings that differ for the critic.
        optimizer_kwargs: Settings of the optimizer that replace saved ones.
        custom_objects: Custom objects, as for `algorithm.load`. Their "policy_kwargs" replace the saved ones.
        **arguments: Further arguments of `algorithm.load`: `env`, `device`, …

    Returns:
        The model.

    Raises:
        TypeError: as in `policy_kwargs`, or if an argument is a misspelt setting.
        ValueError: as in `policy_kwargs`; or if the model is already regularized, has a weight decay, or is
            to be regularized toward its initial weights.
        OSError: if the file cannot be read.

    Examples:
        >>> import tempfile
        >>> from stable_baselines3 import PPO
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     PPO("MlpPolicy", "CartPole-v1").save(f"{folder}/plain")
        ...     model = load(PPO, f"{folder}/plain", regularizer="syre", strength=1e-3, sigma=0.3)
    """
    _require_algorithm(algorithm)
    _require_no_misspelt_setting(algorithm, arguments)
    objects = dict(custom_objects or {})
    saved = dict(objects["policy_kwargs"] if "policy_kwargs" in objects else _saved_kwargs(path))
    base: type[Optimizer] | None = saved.pop("optimizer_class", None)
    if base is not None and issubclass(base, RegularizedOptimizer):
        raise ValueError(
            f"{path} is already regularized: {algorithm.__name__}.load(path) restores that. To change a"
            ' setting: for group in model.policy.optimizer.param_groups: group["strength"] = ….'
        )
    base_kwargs = {**(saved.pop("optimizer_kwargs", None) or {}), **(optimizer_kwargs or {})}
    if base_kwargs.get("weight_decay"):
        raise ValueError(
            f"{path} was trained with weight_decay={base_kwargs['weight_decay']!r}, which the regularizer"
            ' would replace: confirm this with optimizer_kwargs={"weight_decay": 0}, and pass a strength.'
        )
    made = policy_kwargs(
        algorithm,
        regularizer=regularizer,
        strength=strength,
        sigma=sigma,
        anisotropy=anisotropy,
        decoupled=decoupled,
        anchor_seed=anchor_seed,
        actor=actor,
        critic=critic,
        optimizer_class=base,
        optimizer_kwargs=base_kwargs,
    )
    for role in ("actor", "critic"):
        if made["optimizer_kwargs"][role]["regularizer"] == "l2-init":
            raise ValueError(
                f"The {role}'s regularizer 'l2-init' needs the initial weights, which {path} does not"
                ' contain: pass "syre" or "weight-decay".'
            )
    objects["policy_kwargs"] = {**saved, **made}
    return algorithm.load(path, custom_objects=objects, **arguments)


def _saved_kwargs(path: str | Path | BufferedIOBase) -> dict[str, Any]:
    """Read the `policy_kwargs` in a saved model."""
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            entry = json.loads(archive.read("data")).get("policy_kwargs")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path} is not a Stable-Baselines3 model: {error}.") from error
    finally:
        if isinstance(path, (str, Path)):
            file.close()
    return json_to_data(json.dumps({"policy_kwargs": entry}))["policy_kwargs"] or {}


def _require_no_misspelt_setting(
    algorithm: type[BaseAlgorithm], arguments: Mapping[str, Any]
) -> None:
    # Stable-Baselines3's `load` silently accepts any name, as an attribute of the model.
    known = inspect.signature(algorithm).parameters
    for name in arguments:
        close = difflib.get_close_matches(name, _OWN_NAMES, n=1)
        if name not in known and close:
            raise TypeError(f"Unknown argument {name!r}. Did you mean {close[0]!r}?")


def _require_algorithm(algorithm: object) -> None:
    has_optimizer = (OnPolicyAlgorithm, OffPolicyAlgorithm)
    if not (isinstance(algorithm, type) and issubclass(algorithm, has_optimizer)):
        raise TypeError(
            "policy_kwargs() takes a Stable-Baselines3 algorithm whose policy has a torch optimizer,"
            f" such as PPO, not {algorithm!r}."
        )


def _is(algorithm: type[BaseAlgorithm], *names: str) -> bool:
    # Compared by name, so that sb3-contrib need not be installed.
    return any(
        each.__name__ in names
        and each.__module__.startswith(("stable_baselines3.", "sb3_contrib."))
        for each in algorithm.__mro__
    )


def _settings_of_both(
    algorithm: type[BaseAlgorithm],
    common: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Any] | None],
) -> dict[str, RegularizerSettings]:
    """Complete the settings of actor and critic, as far as the algorithm supports them."""
    for role, given in parts.items():
        _require_settings(role, given)
    named = [common["regularizer"], *[(given or {}).get("regularizer") for given in parts.values()]]
    if common["strength"] and not any(named):
        raise ValueError(_NO_REGULARIZER.format("", common["strength"]))
    settings = {role: _settings(role, common, given) for role, given in parts.items()}
    if _is(algorithm, "DQN", "QRDQN") and parts["actor"] is not None:
        raise ValueError(f"{algorithm.__name__} has no actor: pass its settings without actor=….")
    actor = settings["actor"]
    if _is(algorithm, "TRPO") and actor.regularizer != "none" and actor.strength != 0:
        warnings.warn(
            "TRPO updates its actor without the optimizer: the actor, and a features extractor that it"
            ' shares, are not regularized. Pass actor=dict(regularizer="none") to silence this warning.',
            stacklevel=3,
        )
        settings["actor"] = RegularizerSettings()
    return settings


def _require_settings(role: str, given: object) -> None:
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(
            f"{role}={given!r} must be a dictionary of settings, such as"
            f' {role}=dict(regularizer="syre", strength=1e-3).'
        )
    for name in given or {}:
        if name not in SETTING_NAMES:
            raise TypeError(f"Unknown setting {name!r} in {role}=….{nearest(name, SETTING_NAMES)}")


def _settings(
    role: str, common: Mapping[str, Any], given: Mapping[str, Any] | None
) -> RegularizerSettings:
    """Complete the settings of one network with the common ones."""
    chosen = {**common, **(given or {})}
    if chosen["regularizer"] is None:
        if given and given.get("strength"):
            raise ValueError(_NO_REGULARIZER.format(f"The {role}'s ", given["strength"]))
        chosen["regularizer"] = "none"
    strength = chosen["strength"]
    settings = RegularizerSettings(**{**chosen, "strength": 0.0 if strength is None else strength})
    if strength is None and settings.regularizer != "none":
        raise ValueError(
            f"The {role}'s regularizer={settings.regularizer!r} needs a strength (as torch's"
            " weight_decay), for example strength=1e-3; 0 switches it off."
        )
    return settings


_NO_REGULARIZER = (
    "{}strength={!r} does nothing without a regularizer: pass"
    ' regularizer="syre", "weight-decay" or "l2-init".'
)


def _require_known_names(algorithm: type[BaseAlgorithm], others: Mapping[str, Any]) -> None:
    policies = algorithm.policy_aliases.values()
    known = {name for policy in policies for name in inspect.signature(policy.__init__).parameters}
    known -= {"self", "observation_space", "action_space", "lr_schedule"}
    for name in others:
        if name not in known:
            every = sorted(known.union(_OWN_NAMES))
            raise TypeError(
                f"Unknown keyword {name!r} for {algorithm.__name__}.{nearest(name, every)}"
                " Add further arguments of a custom policy class to the result:"
                f" dict(policy_kwargs({algorithm.__name__}, …), {name}=…)."
            )


def _require_base_settings(optimizer_kwargs: Mapping[str, Any]) -> None:
    for name, value in optimizer_kwargs.items():
        if name == "lr":
            raise TypeError(
                f"optimizer_kwargs has lr={value!r}, but the learning rate comes from the algorithm: pass"
                f" learning_rate={value!r} to it."
            )
        if name in _OWN_NAMES:
            raise TypeError(
                f"optimizer_kwargs is for settings of torch's optimizer: pass {name}={value!r} to"
                " policy_kwargs(…) itself."
            )


def _require_importable(base: type[Optimizer]) -> None:
    """Raise a ValueError unless a saved model can find the class by its name when it is loaded."""
    if isinstance(base, type) and (
        base.__module__ == "__main__" or "<locals>" in base.__qualname__
    ):
        raise ValueError(
            f"optimizer_class={base.__qualname__} is defined in"
            f" {'a script' if base.__module__ == '__main__' else 'a function'}, where loading in another"
            " process cannot find it: move it to a separate module and import it from there."
        )


_OWN_NAMES = (*SETTING_NAMES, "actor", "critic")


def _default_optimizer(
    algorithm: type[BaseAlgorithm], given: type[Optimizer] | None
) -> tuple[type[Optimizer], dict[str, Any]]:
    """Return the class and settings that Stable-Baselines3 would use.

    It sets these only if the class *is* torch's own.
    """
    if isinstance(given, type) and issubclass(given, RegularizedOptimizer):
        given = given.base
    base = given or torch.optim.Adam
    if _is(algorithm, "A2C") and given is None:
        return torch.optim.RMSprop, {"alpha": 0.99, "eps": 1e-5}
    if _is(algorithm, "QRDQN") and given is None:
        return base, {"eps": 0.01 / 32}  # 32 is the default batch size
    if _is(algorithm, "CrossQ") and base in (torch.optim.Adam, torch.optim.AdamW):
        return base, {"betas": (0.5, 0.999)}
    if issubclass(algorithm, OnPolicyAlgorithm) and base is torch.optim.Adam:
        return base, {"eps": 1e-5}
    return base, {}
