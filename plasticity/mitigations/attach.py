"""Mitigations in any training loop: `attach` puts them on a model and its optimizer."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.initialization import (
    Constant,
    Distribution,
    Normal,
    initialization_of,
)
from plasticity.mitigations.attached_decay import AttachedDecay
from plasticity.mitigations.base import Mitigation
from plasticity.mitigations.context import Batches
from plasticity.mitigations.hidden_units import hidden_units, named_readers
from plasticity.mitigations.hooks import Hooks
from plasticity.mitigations.method import SeededMethod
from plasticity.mitigations.stacked_settings import overrides
from plasticity.mitigations.trained import Trained, optimizer_moments
from plasticity.seeds import child_seed
from plasticity.units import trace_units
from plasticity.wrappers import raw_module

logger = logging.getLogger("plasticity")


def attach(
    model: nn.Module,
    optimizer: Optimizer,
    *mitigations: Mitigation,
    seed: int = 0,
    inputs: Any = None,
    layers: Sequence[str] | None = None,
    readers: Mapping[str, str] | None = None,
    initialize: Mapping[str, Distribution] | None = None,
) -> Attached:
    """Let mitigations act on a model in a training loop of any kind, at the steps of its optimizer.

    ::

        attached = attach(model, optimizer, ReDo(), Syre(strength=1e-3), seed=0)
        for images, labels in batches:
            loss = cross_entropy(model(images), labels) + attached.penalty()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    Features are those of all forward passes with gradients, in training mode, since the last step: gradients
    can be accumulated over micro-batches. With a `GradScaler`, a step that it skips is none. In a distributed
    run, every process attaches with the same seed; statistics of units are averaged over processes, so that
    all reset the same units.

    Args:
        model: The model, wrapped or not. A compiled one must not have been called yet.
        optimizer: Optimizer of its parameters, whose `step` takes no closure.
        *mitigations: Mitigations, in the order in which they act.
        seed: Seed of random anchors, and of all that the mitigations draw.
        inputs: Example of the model's input, or a tuple of its inputs, to find which layer reads which. None:
            the inputs of the model's first call in training mode.
        layers: Names of the hidden layers whose units the mitigations may act on. None: all.
        readers: Name of the layer that reads a hidden layer's units, by the name of the latter; for models
            that cannot be followed. These are then the only hidden layers.
        initialize: Distributions that weights are drawn from anew, by patterns of their names (in the syntax
            of `fnmatch`). A weight that none matches has those that `model.initialization()` declares, or
            else the spread that it has now, which is logged.

    Returns:
        A handle with the state of the mitigations.

    Raises:
        TypeError: if an argument has the wrong type, or the optimizer needs a closure (LBFGS).
        ValueError: if the mitigations cannot be combined, one changes the network's architecture, the
            optimizer decays already, or has none of the model's parameters, the model was
            compiled and called before, or the units of a layer cannot be followed.
    """
    return Attached(
        model,
        optimizer,
        SeededMethod(mitigations, child_seed(seed, "anchor"), child_seed(seed, "mitigations")),
        inputs=inputs,
        layers=layers,
        readers=readers,
        initialize=initialize,
    )


class Attached:
    """Mitigations on a model and its optimizer; made by `attach`, which describes the arguments."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        method: SeededMethod,
        *,
        inputs: Any,
        layers: Sequence[str] | None,
        readers: Mapping[str, str] | None,
        initialize: Mapping[str, Distribution] | None,
    ) -> None:
        self._model, self._optimizer, self._method = raw_module(model), optimizer, method
        self._layers, self._readers = layers, readers
        _require_attachable(model, self._model, optimizer, method)
        method.prepare(self._model)
        settings = method.regularizer
        self._decay = (
            AttachedDecay(self._model, optimizer, settings)
            if settings.regularizer != "none"
            else None
        )
        parameters = dict(self._model.named_parameters())
        self._initialization = _initialization(self._model, initialize or {}, method)
        self._trained = Trained(
            parameters=parameters,
            buffers=dict(self._model.named_buffers()),
            module=self._model,
            moments=lambda parameter: optimizer_moments(optimizer, parameter),
            initialization=self._initialization,
            ordinary=lambda: self._model,
        )
        self._hooks = Hooks([method.mitigations], self._trained, [method.noise_seed])
        self._undecayed: dict[Tensor, Tensor] = {}
        self._scale: Tensor | None = None
        self._skipped = False
        self._tracing = False
        self._handles: list[Any] = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self._reads_units = any(each.reads_units for each in method.mitigations)
        self._begun = False
        if not self._reads_units or readers is not None or inputs is not None:
            self._begin(inputs if isinstance(inputs, tuple) else (inputs,), {})
        first = _ModelHook(self)
        self._handles.append(self._model.register_forward_pre_hook(first, with_kwargs=True))

    # ---- forward passes -------------------------------------------------------------------------

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the units, given the inputs of a call, and record the inputs of their readers from now on."""
        if self._begun:
            return
        if self._reads_units:
            self._trained.units.update(self._find_units(args, kwargs))
            for name in dict.fromkeys(
                each.readers[0].layer for each in self._trained.units.values()
            ):
                hook = _LayerHook(self, name)
                module = self._model.get_submodule(name)
                self._handles.append(module.register_forward_pre_hook(hook))
        self._begun = True
        self._hooks.begin(lambda: torch.empty(0))  # the units are known

    def _find_units(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._readers is not None:
            return named_readers(self._model, self._readers)
        self._tracing = True
        try:
            flow = trace_units(self._model, *args, **kwargs)
        finally:
            self._tracing = False
        return hidden_units(flow, self._model, self._layers)

    def _is_training_call(self) -> bool:
        return torch.is_grad_enabled() and self._model.training and not self._tracing

    def _on_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the inputs of a call of the model."""
        if self._is_training_call():
            self._begin(args, kwargs)
            given = next((each for each in args if isinstance(each, Tensor)), None)
            if given is not None:
                self._hooks.progress.inputs = given

    def _on_layer(self, name: str, args: tuple[Any, ...]) -> None:
        """Record the input of a layer, if the next step's hooks need it."""
        if self._is_training_call() and self._hooks.recorded_layers:
            self._hooks.progress.layer_inputs.setdefault(name, []).append(args[0])

    # ---- steps ----------------------------------------------------------------------------------

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: Any) -> None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # behind the optimizer itself
        if closure is not None:
            raise ValueError(
                "step() was given a closure, inside which the gradients are computed, but mitigations act on"
                " them before it: compute the gradients first, and call step()."
            )
        self._require_begun()
        found_inf = getattr(optimizer, "found_inf", None)  # of a GradScaler, with a fused optimizer
        self._skipped = found_inf is not None and bool(found_inf)
        if self._skipped:
            return
        self._scale = getattr(optimizer, "grad_scale", None)
        self._rescale(inverse=True)
        self._hooks.before_step()
        if self._decay is not None:
            self._undecayed = self._decay.join()
        self._rescale(inverse=False)

    def _require_begun(self) -> None:
        if not self._begun:
            raise RuntimeError(
                f"{self._hooks.names} needs to know which layer reads which, and the model was not called in"
                " training mode with gradients before this step: give attach(…, inputs=…), an example of its"
                " input."
            )

    @torch.no_grad()
    def _rescale(self, *, inverse: bool) -> None:
        """Divide the gradients by the scale of a `GradScaler`, a power of two, or multiply them again."""
        if self._scale is None:
            return
        for parameter in self._trained.parameters.values():
            if parameter.grad is not None:
                scale = self._scale.to(parameter.grad.device)
                parameter.grad.mul_(scale.reciprocal() if inverse else scale)

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: Any) -> None:
        for parameter, gradient in self._undecayed.items():
            parameter.grad = gradient
        self._undecayed = {}
        if self._skipped:
            self._hooks.progress.layer_inputs = {}
        else:
            self._hooks.after_step()

    # ---- what a training loop calls -------------------------------------------------------------

    def penalty(self) -> Tensor:
        """Return the mitigations' term of the loss, after the forward pass: a number, 0 if there is none."""
        device = self._trained.device
        if not self._hooks.has_penalty:
            return torch.zeros((), device=device)
        self._require_begun()
        found = self._hooks.penalty()
        return torch.zeros((), device=device) if found is None else found

    def boundary(
        self, task: int, batches: Iterable[tuple[Tensor, Tensor]] | Batches | None = None
    ) -> None:
        """Tell that a task has ended, before the first step on the next one.

        Args:
            task: Index of the task that begins.
            batches: Inputs and labels of that task, or a function that returns them; a mitigation may ask for
                them several times. None: there are none.

        Raises:
            RuntimeError: if a mitigation needs what was not given.
        """
        self._require_begun()
        every: Any = batches
        self._hooks.boundary(
            task, [0], every if every is None or callable(every) else lambda: every
        )

    def evaluating(self) -> AbstractContextManager[None]:
        """Give the model the parameters that it is to be evaluated with, inside the block."""
        return self._hooks.evaluating()

    def take_counts(self) -> dict[str, float]:
        """Return what the mitigations counted since the last call, such as `reset_units/LAYER`."""
        (found,) = self._hooks.take_counts()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the mitigations, of tensors and plain values only."""
        return {
            "mitigations": self._hooks.state_dict(),
            "anchors": None if self._decay is None else self._decay.state_dict(),
            "measured": {
                name: [type(each).__name__, *astuple(each)]  # type: ignore[call-overload]
                for name, each in self._initialization.items()
                if type(each) in (Constant, Normal)
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, after attaching the same mitigations to the same kind of model.

        Raises:
            ValueError: if the state belongs to other mitigations.
        """
        self._hooks.load_state_dict(state["mitigations"])
        if self._decay is not None:
            self._decay.load_state_dict(state["anchors"])
        kinds = {"Constant": Constant, "Normal": Normal}
        for name, (kind, *values) in state["measured"].items():
            self._initialization[name] = kinds[kind](*values)

    def detach(self) -> None:
        """Remove the mitigations from the model and the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _Copied:
    """Hook on a copy of a model that mitigations were attached to."""

    warned = False

    def __call__(self, module: nn.Module, *_inputs: Any) -> None:
        if not self.warned and torch.is_grad_enabled() and module.training:
            self.warned = True
            warnings.warn(
                "This model is a copy of one that mitigations are attached to, and they do not act on it:"
                " attach() them to the copy and its optimizer.",
                stacklevel=2,
            )


class _ModelHook:
    """Hook on a model, which tells `Attached` of its calls. Of a copy of the model, it becomes `_Copied`."""

    def __init__(self, attached: Attached) -> None:
        self._attached = attached

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._attached._on_call(args, kwargs)

    def __deepcopy__(self, _memo: Any) -> _Copied:
        return _Copied()

    def __reduce__(self) -> Any:
        return _Copied, ()


class _LayerHook:
    """Hook on a layer that reads units; it acts on no copy of the layer."""

    def __init__(self, attached: Attached, name: str) -> None:
        self._attached, self._name = attached, name

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._attached._on_layer(self._name, args)

    def __deepcopy__(self, _memo: Any) -> _Nothing:
        return _Nothing()

    def __reduce__(self) -> Any:
        return _Nothing, ()


class _Nothing:
    """Hook that does nothing."""

    def __call__(self, _module: nn.Module, _args: tuple[Any, ...]) -> None:
        pass


def _require_attachable(
    model: nn.Module, raw: nn.Module, optimizer: Optimizer, method: SeededMethod
) -> None:
    for each in method.mitigations:
        if overrides(each, "network"):
            raise ValueError(
                f"{each.name} changes the architecture of a network before it is built, so that it cannot be"
                " attached: build the network with it."
            )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            "LBFGS evaluates its closure several times within a step, so that mitigations cannot act on its"
            " gradients and steps: use an optimizer whose step() needs no closure."
        )
    owned = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if not any(parameter in owned for parameter in raw.parameters()):
        raise ValueError(
            "The optimizer has none of the model's parameters: give the optimizer that trains this model."
        )
    if _was_compiled_and_called(model, raw):
        raise ValueError(
            "The model was compiled and called before, so that hooks added now would never fire: attach the"
            " mitigations before its first call."
        )


def _was_compiled_and_called(model: nn.Module, raw: nn.Module) -> bool:
    if "torch._dynamo" not in sys.modules:
        return False
    is_compiled = any("_orig_mod" in module._modules for module in model.modules()) or any(
        module._compiled_call_impl is not None for module in raw.modules()
    )
    if not is_compiled:
        return False
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list  # noqa: PLC0415  (the compiler)

    codes = (type(module).forward.__code__ for module in raw.modules())
    return any(_debug_get_cache_entry_list(code) for code in codes)


def _initialization(
    model: nn.Module, given: Mapping[str, Distribution], method: SeededMethod
) -> dict[str, Distribution]:
    """Return the distribution of each parameter, and log which ones were measured."""
    found = initialization_of(model)
    for pattern, distribution in given.items():
        matching = [name for name in found if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(
                f"initialize has the pattern {pattern!r}, which matches no parameter of the model: give one"
                f" that does, such as {next(iter(found))!r}."
            )
        found |= dict.fromkeys(matching, distribution)
    is_declared = callable(getattr(model, "initialization", None))
    measured = [
        f"{name} (standard deviation {each.deviation:.3g})"
        for name, each in found.items()
        if isinstance(each, Normal) and not any(fnmatchcase(name, pattern) for pattern in given)
    ]
    if measured and not is_declared and any(each.reads_units for each in method.mitigations):
        logger.info(
            "Units that are reset get normal weights of the spread that their layer has now: %s. Give"
            " initialize={pattern: distribution} for others.",
            ", ".join(measured),
        )
    return found
