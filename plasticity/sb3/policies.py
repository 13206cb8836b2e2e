"""Policies of Stable-Baselines3 with regularized optimizers: `policy_kwargs`, and `load` for saved models."""

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

    >>> policy_kwargs(SAC, actor=dict(regularizer="syre", strength=1e-3, sigma=0.3), net_arch=[64])

    The optimizer stays the one that Stable-Baselines3 would use, with its settings (Adam with
    eps=1e-5 for PPO, RMSprop for A2C): with regularizer="none" a model trains bit for bit as without
    these `policy_kwargs`. The groups are built with the policy, so that `PPO.load(path)` alone
    restores them, and saved settings and anchors replace those at hand, as torch does with a learning
    rate. `describe_groups(model.policy.optimizer)` shows what each group got; SAC, TD3, DDPG and TQC
    have two optimizers, `model.policy.actor.optimizer` and `model.policy.critic.optimizer`.

    - Left alone: a `log_std` that is a parameter, normalisation layers, SAC's entropy coefficient,
      and target networks, which no optimizer has.
    - A features extractor that actor and critic share counts as the actor's.
    - DQN and QR-DQN have a critic only.
    - **TRPO** never shows its actor to the optimizer (it takes natural-gradient steps by itself), so
      only the critic can be regularized, and not the features extractor if the actor shares it
      (`share_features_extractor=False` gives each its own). A setting for the actor is a warning.
    - Gradients are clipped (`max_grad_norm`) before the decay joins them, as with torch's own decay.
    - Saved settings win over those given at a load. To change one afterwards:
      ``for group in model.policy.optimizer.param_groups: group["strength"] = 1e-4`` (each has its
      ``name``, "actor", "critic" or "left alone").
    - To go on from a model saved without any of this: `load(PPO, path, …)`.

    The bare form works as well,
    `dict(optimizer_class=regularized(torch.optim.Adam), optimizer_kwargs=dict(regularizer="syre", …))`,
    and changes this: Adam's eps is torch's 1e-8 in PPO and its kin, where Stable-Baselines3 has 1e-5
    (give `eps=1e-5`); A2C no longer uses RMSprop; actor and critic are not told apart; normalisation
    layers are regularized; so is `log_std`, except under syre, where it is left alone because it comes
    before any weight (but not with `use_sde=True`, which makes it a matrix); a features extractor that
    TD3's actor and critic share is decayed by both, toward two anchors; and TRPO's actor is not
    regularized without a warning.

    Args:
        algorithm: PPO, A2C, DQN, SAC, TD3, DDPG; of sb3-contrib TQC, TRPO, RecurrentPPO, MaskablePPO,
            QRDQN, CrossQ; or a subclass of one.
        regularizer: Of actor and critic: "none" (as if nothing is given), "weight-decay", "syre" or
            "l2-init".
        strength: Of torch's `weight_decay`. Required with a regularizer; 0 switches it off.
        sigma: Spread of syre's anchor, relative to the usual initialisation; effects showed from 0.3.
        anisotropy: Of syre's Eq. 7.
        decoupled: Decay apart from the gradient, as AdamW. None: as the optimizer's own decay.
        anchor_seed: Actor and critic take child seeds of it. None: `torch.initial_seed()`, which is
            the algorithm's `seed`; without that one, torch's default, the same in every process.
        actor: Settings, by their names above, that differ for the actor.
        critic: Likewise for the critic.
        optimizer_class: Another base than Stable-Baselines3's: of torch, or at the top of a module that
            can be imported, as a saved model finds it by its name.
        optimizer_kwargs: Its settings, added to Stable-Baselines3's own. (A2C's `rms_prop_eps` and
            `use_rms_prop`, and QR-DQN's batch size, which its eps follows, have no effect beside
            `policy_kwargs`: give eps or the class here.)
        **others: Whatever else the algorithm's policies take: `net_arch`, `activation_fn`, …

    Returns:
        A dict for the algorithm's `policy_kwargs`.

    Raises:
        TypeError: if the algorithm is none of Stable-Baselines3's, a setting has the wrong type, or a
            name is unknown: the nearest is named.
        ValueError: if a setting is out of range or does not fit the others, or if a saved model would
            not find `optimizer_class` in another process.
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
    """Load a model that was saved without this package, and regularize it from here on.

    >>> model = load(PPO, "plain.zip", env=env, regularizer="syre", strength=1e-3, sigma=0.3)

    The policy is the one that was saved, with all of its `policy_kwargs`, and so is the optimizer, with
    its settings, learning rate and moments. When it is saved again, `PPO.load(path)` alone restores it.
    `plasticity strip` is the way back. As with `PPO.load`, pickles in the file are loaded.

    Args:
        algorithm: The class that saved the file, as for `policy_kwargs`.
        path: The file, as for `algorithm.load`.
        regularizer: As for `policy_kwargs`, and so the next seven. "l2-init" is refused: the initial
            weights are not in the file.
        strength: Of torch's `weight_decay`.
        sigma: Spread of syre's anchor.
        anisotropy: Of syre's Eq. 7.
        decoupled: Decay apart from the gradient.
        anchor_seed: Actor and critic take child seeds of it. None: the seed of the saved model.
        actor: Settings that differ for the actor.
        critic: Likewise for the critic.
        optimizer_kwargs: Settings of the optimizer in place of saved ones.
        custom_objects: As for `algorithm.load`. Its "policy_kwargs" stand in for the saved ones.
        **arguments: Of `algorithm.load`: `env`, `device`, …

    Returns:
        The model.

    Raises:
        TypeError: as `policy_kwargs`, or if an argument is a misspelt setting.
        ValueError: as `policy_kwargs`; or if the model is regularized already, has a weight decay, or is
            to be regularized toward its initial weights.
        OSError: if the file cannot be read.
    """
    _require_algorithm(algorithm)
    _require_no_misspelt_setting(algorithm, arguments)
    objects = dict(custom_objects or {})
    saved = dict(objects["policy_kwargs"] if "policy_kwargs" in objects else _saved_kwargs(path))
    base: type[Optimizer] | None = saved.pop("optimizer_class", None)
    if base is not None and issubclass(base, RegularizedOptimizer):
        raise ValueError(
            f"{path} is regularized already: {algorithm.__name__}.load(path) restores that. To change a"
            ' setting: for group in model.policy.optimizer.param_groups: group["strength"] = ….'
        )
    base_kwargs = {**(saved.pop("optimizer_kwargs", None) or {}), **(optimizer_kwargs or {})}
    if base_kwargs.get("weight_decay"):
        raise ValueError(
            f"{path} was trained with weight_decay={base_kwargs['weight_decay']!r}, in whose place the"
            ' regularizer comes: say so with optimizer_kwargs={"weight_decay": 0}, and give a strength.'
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
                f"The {role}'s regularizer 'l2-init' needs its initial weights, which {path} does not"
                ' hold: give "syre" or "weight-decay".'
            )
    objects["policy_kwargs"] = {**saved, **made}
    return algorithm.load(path, custom_objects=objects, **arguments)


def _saved_kwargs(path: str | Path | BufferedIOBase) -> dict[str, Any]:
    """The `policy_kwargs` in a saved model."""
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            entry = json.loads(archive.read("data")).get("policy_kwargs")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path} is no model of Stable-Baselines3: {error}.") from error
    finally:
        if isinstance(path, (str, Path)):
            file.close()
    return json_to_data(json.dumps({"policy_kwargs": entry}))["policy_kwargs"] or {}


def _require_no_misspelt_setting(
    algorithm: type[BaseAlgorithm], arguments: Mapping[str, Any]
) -> None:
    # `load` of Stable-Baselines3 takes any name in silence, for an attribute of the model.
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
    # By name: sb3-contrib is not needed for what does not come from it.
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
    """Complete the settings of actor and critic, where the algorithm can follow them."""
    for role, given in parts.items():
        _require_settings(role, given)
    named = [common["regularizer"], *[(given or {}).get("regularizer") for given in parts.values()]]
    if common["strength"] and not any(named):
        raise ValueError(_NO_REGULARIZER.format("", common["strength"]))
    settings = {role: _settings(role, common, given) for role, given in parts.items()}
    if _is(algorithm, "DQN", "QRDQN") and parts["actor"] is not None:
        raise ValueError(f"{algorithm.__name__} has no actor: give its settings without actor=….")
    actor = settings["actor"]
    if _is(algorithm, "TRPO") and actor.regularizer != "none" and actor.strength != 0:
        warnings.warn(
            "TRPO steps its actor by itself, outside of the optimizer: the actor, and a features"
            ' extractor that it shares, are not regularized. Give actor=dict(regularizer="none") to'
            " say that you know.",
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
    """Complete one network's settings from those of both."""
    chosen = {**common, **(given or {})}
    if chosen["regularizer"] is None:
        if given and given.get("strength"):
            raise ValueError(_NO_REGULARIZER.format(f"The {role}'s ", given["strength"]))
        chosen["regularizer"] = "none"
    strength = chosen["strength"]
    settings = RegularizerSettings(**{**chosen, "strength": 0.0 if strength is None else strength})
    if strength is None and settings.regularizer != "none":
        raise ValueError(
            f"The {role}'s regularizer={settings.regularizer!r} needs a strength (of torch's"
            " weight_decay), for example strength=1e-3; 0 switches it off."
        )
    return settings


_NO_REGULARIZER = (
    "{}strength={!r} does nothing without a regularizer: give"
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
                " What a policy class of your own takes besides goes next to it:"
                f" dict(policy_kwargs({algorithm.__name__}, …), {name}=…)."
            )


def _require_base_settings(optimizer_kwargs: Mapping[str, Any]) -> None:
    for name, value in optimizer_kwargs.items():
        if name == "lr":
            raise TypeError(
                f"optimizer_kwargs has lr={value!r}, which comes from the algorithm: give it"
                f" learning_rate={value!r}."
            )
        if name in _OWN_NAMES:
            raise TypeError(
                f"optimizer_kwargs is for settings of torch's optimizer: give {name}={value!r} to"
                " policy_kwargs(…) itself."
            )


def _require_importable(base: type[Optimizer]) -> None:
    """A saved model holds the class's name: whoever loads it has to find the class there."""
    if isinstance(base, type) and (
        base.__module__ == "__main__" or "<locals>" in base.__qualname__
    ):
        raise ValueError(
            f"optimizer_class={base.__qualname__} is defined in"
            f" {'a script' if base.__module__ == '__main__' else 'a function'}, where no load in another"
            " process finds it: put it in a module of its own, and import it from there."
        )


_OWN_NAMES = (*SETTING_NAMES, "actor", "critic")


def _default_optimizer(
    algorithm: type[BaseAlgorithm], given: type[Optimizer] | None
) -> tuple[type[Optimizer], dict[str, Any]]:
    """What Stable-Baselines3 would use: it sets these only where the class *is* torch's own."""
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
