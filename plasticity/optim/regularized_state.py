"""The state of a regularized optimizer: saved, loaded, copied and pickled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plasticity.optim.initial_weights import InitialWeights
from plasticity.optim.kernels.step import make_kernels
from plasticity.optim.regularized_groups import RegularizedGroups
from plasticity.optim.saved_anchors import require_saved_anchors, with_anchors, without_anchors
from plasticity.optim.settings import SETTING_NAMES, RegularizerSettings
from plasticity.optim.targets import has_zero_anchor
from plasticity.optim.transferred_groups import LIVING

logger = logging.getLogger("plasticity")

HELD = "initial_weights"


class RegularizedState(RegularizedGroups):
    """Part of `RegularizedOptimizer`: its state. Not used by itself."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch's. Syre adds only numbers to the groups.

        L2-init adds the anchor of each parameter to the parameter's state, under "anchor".
        """
        self._follow_every_parameter()
        state = super().state_dict()
        if self._kernels is not None:
            state = self._kernels.ordinary_state(state)
        for group in state["param_groups"]:
            # The base's part of a decay toward an anchor: half a decay, to the plain base.
            if "weight_decay" in group and not has_zero_anchor(group):
                group["weight_decay"] = 0.0
        return with_anchors(state, self._every_parameter(), self._initial_weights)

    def load_state_dict(self, state_dict: dict[str, Any], *, keep_settings: bool = False) -> None:
        """Load a state as torch's. One of the plain base loads too: the settings here then stay.

        Args:
            state_dict: As `state_dict` gives it, or as the base does.
            keep_settings: Keep the regularizer settings of this optimizer (`regularizer`, `strength`,
                `sigma`, `anisotropy`, `decoupled`) where the saved ones differ, to go on with others.
                The seed of the anchors and l2-init's anchors are those of the saved state in any case.

        Raises:
            TypeError: if a saved setting has the wrong type.
            ValueError: if the groups do not fit, a saved setting is out of range, or a saved l2-init
                lacks its anchors.
        """
        self._follow_every_parameter()
        state_dict, anchors = without_anchors(state_dict)
        saved_groups = state_dict["param_groups"]
        if len(saved_groups) == len(self.param_groups):
            saved_groups = [
                self._loadable(group, saved, keep_settings)
                for group, saved in zip(self.param_groups, saved_groups, strict=True)
            ]
            if not keep_settings:
                require_saved_anchors(state_dict, self.param_groups, anchors)
        super().load_state_dict({**state_dict, "param_groups": saved_groups})
        every = self._every_parameter()
        for place, anchor in anchors.items():
            parameter = every[place]
            self._initial_weights[parameter] = torch.empty_like(parameter).copy_(anchor)
            self._awaited.discard(parameter)
        if anchors and not keep_settings:
            self._await_the_others(anchors)
        self._forget()
        for index, group in enumerate(self.param_groups):
            self._sync_base_decay(index, group)

    def _await_the_others(self, anchors: Mapping[int, Tensor]) -> None:
        """Let l2-init hold parameters that were frozen when the state was saved to what is loaded there."""
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["regularizer"] == "l2-init" and place not in anchors:
                    self._initial_weights.pop(parameter, None)
                    self._awaited.add(parameter)
                place += 1

    def _loadable(
        self, group: Mapping[str, Any], saved: Mapping[str, Any], keep_settings: bool
    ) -> dict[str, Any]:
        """Complete a saved group with what this optimizer knows, and check it."""
        own = {name: group[name] for name in (*SETTING_NAMES, "fan_in", "anchor_position")}
        kept = [name for name in SETTING_NAMES if name != "anchor_seed"] if keep_settings else []
        loaded = {**own, **saved, **{name: own[name] for name in kept}}
        RegularizerSettings(**{name: loaded[name] for name in SETTING_NAMES})
        if saved.get("weight_decay") and "regularizer" not in saved:
            logger.warning(
                "The saved state has weight_decay=%s of its own: regularizer=%r with strength=%s takes its"
                " place.",
                saved["weight_decay"],
                loaded["regularizer"],
                loaded["strength"],
            )
        if keep_settings and "weight_decay" in loaded:
            loaded["weight_decay"] = 0.0  # the base's share of the saved decay; settled anew
        if self._kernels is not None:
            # Which form of torch's step a run had is no part of what it computed.
            loaded.update({name: None for name in ("foreach", "fused") if name in loaded})
            self._kernels.check_group(loaded)
        return loaded

    def _every_parameter(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def __getstate__(self) -> dict[str, Any]:
        # The drawn anchors stay behind: they are made again from the seed.
        self._follow_every_parameter()
        state = super().__getstate__()
        defaults = {key: value for key, value in state["defaults"].items() if key != HELD}
        held = {HELD: dict(self._initial_weights), "awaited": list(self._awaited)}
        own = {"given_fan_in": list(self._given_fan_in), "seed_is_own": self._seed_is_own}
        return {**state, "defaults": defaults, "held": held, **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        held = state.pop("held", None)  # not in the state that torch's load_state_dict hands over
        given, seed_is_own = state.pop("given_fan_in", ()), state.pop("seed_is_own", False)
        super().__setstate__(state)
        if held is not None:
            self._initial_weights = InitialWeights(held[HELD])
            self.defaults[HELD] = self._initial_weights
            self._awaited, self._given_fan_in = set(held["awaited"]), set(given)
            self._own_defaults, self._given_weights = {}, {}
            self._left_alone, self._constructed, self._seed_is_own = False, True, seed_is_own
            self._kernels = make_kernels(self.defaults["kernel"], self.base)
            self._seen = {
                index: list(group["params"]) for index, group in enumerate(self.param_groups)
            }
            LIVING.add(self)
        self._forget()
