"""Saving, loading, copying and pickling of a regularized optimizer."""

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
"""Key of l2-init's anchors in `defaults` and in the pickled state."""


class RegularizedState(RegularizedGroups):
    """State of `RegularizedOptimizer`. Not instantiated directly."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state in torch's format. Syre adds only numbers to the groups.

        L2-init adds the anchor of each parameter to the parameter's state, under "anchor".
        """
        self._follow_every_parameter()
        state = super().state_dict()
        if self._kernels is not None:
            state = self._kernels.ordinary_state(state)
        for group in state["param_groups"]:
            # The base's part of a decay toward an anchor would be half a decay to the plain base.
            if "weight_decay" in group and not has_zero_anchor(group):
                group["weight_decay"] = 0.0
        return with_anchors(state, self._every_parameter(), self._initial_weights)

    def load_state_dict(self, state_dict: dict[str, Any], *, keep_settings: bool = False) -> None:
        """Load a state as in torch. A state of the plain base loads too, and keeps the settings here.

        Args:
            state_dict: State returned by `state_dict`, of this class or of the base.
            keep_settings: Keep the regularizer settings of this optimizer (`regularizer`, `strength`,
                `sigma`, `anisotropy`, `decoupled`) where the saved ones differ, to continue with others.
                The anchor seed and l2-init's anchors are those of the saved state in any case.

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
        for position, anchor in anchors.items():
            parameter = every[position]
            self._initial_weights[parameter] = torch.empty_like(parameter).copy_(anchor)
            self._awaited.discard(parameter)
        if anchors and not keep_settings:
            self._await_missing_anchors(anchors)
        self._forget()
        for index, group in enumerate(self.param_groups):
            self._sync_base_decay(index, group)

    def _await_missing_anchors(self, anchors: Mapping[int, Tensor]) -> None:
        """Mark parameters of l2-init without a saved anchor: they were frozen when the state was saved.

        Their anchors are the weights that are loaded for them.
        """
        position = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["regularizer"] == "l2-init" and position not in anchors:
                    self._initial_weights.pop(parameter, None)
                    self._awaited.add(parameter)
                position += 1

    def _loadable(
        self, group: Mapping[str, Any], saved: Mapping[str, Any], keep_settings: bool
    ) -> dict[str, Any]:
        """Return a saved group, checked, with missing keys filled in from this optimizer's group."""
        own = {name: group[name] for name in (*SETTING_NAMES, "fan_in", "anchor_position")}
        kept = [name for name in SETTING_NAMES if name != "anchor_seed"] if keep_settings else []
        loaded = {**own, **saved, **{name: own[name] for name in kept}}
        if loaded["anchor_seed"] is None:  # the saved group drew no anchors
            loaded["anchor_seed"] = own["anchor_seed"]
        RegularizerSettings(**{name: loaded[name] for name in SETTING_NAMES})
        if saved.get("weight_decay") and "regularizer" not in saved:
            logger.warning(
                "The saved state has its own weight_decay=%s, which regularizer=%r with strength=%s"
                " replaces.",
                saved["weight_decay"],
                loaded["regularizer"],
                loaded["strength"],
            )
        if keep_settings and "weight_decay" in loaded:
            loaded["weight_decay"] = 0.0  # the base's part of the saved decay; set again below
        if self._kernels is not None:
            # The implementation of torch's step is not part of the state.
            loaded.update({name: None for name in ("foreach", "fused") if name in loaded})
            self._kernels.check_group(loaded)
        return loaded

    def _every_parameter(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def __getstate__(self) -> dict[str, Any]:
        # Drawn anchors are left out: they are drawn again from the seed.
        self._follow_every_parameter()
        state = super().__getstate__()
        defaults = {key: value for key, value in state["defaults"].items() if key != HELD}
        held = {HELD: dict(self._initial_weights), "awaited": list(self._awaited)}
        own = {"given_fan_in": list(self._given_fan_in), "seed_is_own": self._seed_is_own}
        return {**state, "defaults": defaults, "held": held, **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        held = state.pop("held", None)  # not in the state that torch's load_state_dict passes
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
