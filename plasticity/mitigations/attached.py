"""Mitigations at work on a model and its optimizer, in a training loop of any kind: `Attached`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple
from functools import partial
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
from plasticity.mitigations.attachable import inner_optimizer, require_attachable
from plasticity.mitigations.attached_decay import AttachedDecay, require_no_decay
from plasticity.mitigations.attached_distributions import attached_distributions
from plasticity.mitigations.attached_units import AttachedUnits
from plasticity.mitigations.call_hooks import hook_layer, hook_model
from plasticity.mitigations.closures import Arguments, with_evaluated_closure
from plasticity.mitigations.hooks import Hooks
from plasticity.mitigations.joined_penalty import join_penalty, repeated_pass
from plasticity.mitigations.method import (
    SeededMethod,
    added_entries,
    method_name,
    require_compatible,
)
from plasticity.mitigations.optimizer_views import OrdinaryView
from plasticity.mitigations.passes import Passes
from plasticity.mitigations.processes import mean_over_processes
from plasticity.mitigations.progress import Batches, Loss
from plasticity.mitigations.trained import Trained
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.units.numbers import tensors_in
from plasticity.wrappers import raw_module

logger = logging.getLogger("plasticity")


class Attached:
    """Mitigations on a model and its optimizer; made by `attach`, which describes the arguments.

    Examples:
        >>> from plasticity.mitigations import Syre
        >>> model = nn.Linear(4, 2)
        >>> attached = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), Syre(), seed=0)
        >>> isinstance(attached, Attached)
        True
    """

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
        adds_penalty: bool,
        state: Mapping[str, Any] | None,
    ) -> None:
        self._model, self._optimizer = raw_module(model), inner_optimizer(optimizer)
        self._method = method
        require_attachable(model, self._model, self._optimizer, method)
        self._parameters = dict(self._model.named_parameters())
        self._require_alone()
        settings = method.regularizer
        if settings.regularizer != "none":
            require_no_decay(self._optimizer)
        # Before the weights are moved: a redraw has the spread of those that the user gave.
        self._initialization = attached_distributions(
            self._model, initialize or {}, method, is_new=state is None
        )
        self._reads_units = any(each.reads_units for each in method.mitigations)
        self._reads_roles = any(each.reads_roles for each in method.mitigations)
        self._added: list[nn.Parameter] = []
        self._is_silent = self._is_recording = self._begun = self._skipped = False
        self._units = AttachedUnits(self._model, self._optimizer, layers, readers)
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        self._example = _first_tensor(args)
        self._reads_example = any(each.reads_example for each in method.mitigations)
        if self._reads_structure and (readers is not None or inputs is not None):
            self._find(args, {})
        if state is None:
            method.prepare(self._model)
            self._take_new_parameters()
        elif missing := added_entries(self._model, method):
            raise ValueError(
                f"{method_name(method.mitigations)} adds {missing} to the model, which lacks"
                " them: attach without state=, and load the states of model, optimizer and mitigations"
                " afterwards."
            )
        self._decay = (
            AttachedDecay(self._model, self._optimizer, settings)
            if settings.regularizer != "none"
            else None
        )
        self._trained = Trained(
            parameters=self._parameters,
            buffers=dict(self._model.named_buffers()),
            module=self._model,
            optimizer=OrdinaryView(self._optimizer, self._parameters),
            units=self._units.visible,
            roles=self._units.roles,
            initialization=self._initialization,
            ordinary=lambda: self._model,
        )
        self._hooks = Hooks([method.mitigations], self._trained, [method.noise_seed])
        self._passes = Passes()
        self._adds_penalty = adds_penalty and self._hooks.has_penalty
        self._gave_penalty = False
        self._latest_call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._is_repeating = False
        self._undecayed: dict[Tensor, Tensor] = {}
        self._handles: list[Any] = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
            hook_model(self._model, self._on_call),
        ]
        if not (self._lacks_structure or self._lacks_example):
            self._begin()
        if state is not None:
            try:
                self.load_state_dict(state)
            except Exception:
                self.detach()
                raise

    def _require_alone(self) -> None:
        """Raise a ValueError if mitigations that act on one of the weights already claim the same."""
        mine = set(self._parameters.values())
        for hook in self._optimizer._optimizer_step_pre_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, Attached) and mine & set(other._parameters.values()):
                require_compatible([*other._method.mitigations, *self._method.mitigations])

    @property
    def _reads_structure(self) -> bool:
        return self._reads_units or self._reads_roles

    @property
    def _lacks_structure(self) -> bool:
        return self._reads_structure and not self._units.roles

    @property
    def _lacks_example(self) -> bool:
        return self._reads_example and self._example is None

    def _find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find what the mitigations need to know of the model, given the inputs of a call."""
        self._units.find(args, kwargs, units=self._reads_units)

    def _take_new_parameters(self) -> None:
        """Let the optimizer train the parameters that the mitigations have added to the model."""
        now = dict(self._model.named_parameters())
        added = {name: each for name, each in now.items() if name not in self._parameters}
        if not added:
            return
        if isinstance(self._optimizer, RegularizedOptimizer):
            self._optimizer.add_param_group({"params": [*added.values()], "regularizer": "none"})
        else:  # not a group of its own, which a scheduler that exists already would not know
            self._optimizer.param_groups[0]["params"].extend(added.values())
        measured = initialization_of(self._model)
        self._initialization |= {name: measured[name] for name in added}
        self._parameters = now
        self._units.add(added)
        self._added = [*added.values()]

    def _begin(self) -> None:
        """Make the states of the mitigations, and record the inputs of the layers that read units."""
        for name in dict.fromkeys(each.readers[0].layer for each in self._units.visible.values()):
            layer = self._model.get_submodule(name)
            self._handles.append(hook_layer(layer, partial(self._on_layer, name)))
        with self._silent():
            example = torch.empty(0) if self._example is None else self._example
            self._hooks.begin(lambda: example)  # the units are known
        self._begun = True
        self._is_recording = self._hooks.reads_next_step

    @contextmanager
    def _acting(self, *, on_pass: bool = False) -> Iterator[None]:
        """Let mitigations act inside the block, on trained units, and not record what they run."""
        self._units.show_trained(self._hooks.progress.layer_inputs if on_pass else None)
        try:
            with self._silent():
                yield
        finally:
            self._units.show_all()

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Record no passes inside the block."""
        self._is_silent = True
        try:
            yield
        finally:
            self._is_silent = False

    # ---- forward passes -------------------------------------------------------------------------

    def _is_training_call(self) -> bool:
        return torch.is_grad_enabled() and self._model.training and not self._is_silent

    def _on_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the inputs of a call of the model."""
        if not self._is_training_call():
            return
        inputs = _first_tensor((*args, *kwargs.values()))
        if not self._begun:
            self._example = inputs
            with self._silent():
                if self._lacks_structure:
                    self._find(args, kwargs)
            self._begin()
        if self._adds_penalty and self._hooks.penalizes_features:
            self._latest_call = args, kwargs
        progress = self._hooks.progress
        progress.inputs = inputs
        every = [*tensors_in(args), *tensors_in(kwargs)]
        progress.has_other_inputs = bool(every) and (len(every) > 1 or every[0] is not inputs)
        progress.batch_size += 0 if inputs is None else len(inputs)

    def _on_layer(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the input of a layer, if the next step's hooks need it."""
        if self._is_repeating:
            inputs = next(iter((*args, *kwargs.values())))
            self._hooks.progress.layer_inputs.setdefault(name, []).append(inputs)
        elif self._is_recording and self._is_training_call():
            inputs = next(iter((*args, *kwargs.values())))
            self._passes.record(name, inputs, self._hooks.progress, self._units.optimized)

    # ---- steps ----------------------------------------------------------------------------------

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: Any
    ) -> Arguments | None:
        arguments = with_evaluated_closure(optimizer, args, kwargs)
        self._require_begun()
        found_inf = getattr(optimizer, "found_inf", None)  # of a GradScaler, with a fused optimizer
        self._skipped = found_inf is not None and bool(found_inf)
        if not self._skipped:
            self._act_before_step(optimizer)
        return arguments

    def _act_before_step(self, optimizer: Optimizer) -> None:
        self._units.follow_groups()
        _unscale(optimizer)
        for each in self._added:  # unknown to a DistributedDataParallel that was made before
            if each.grad is not None:
                each.grad = mean_over_processes(each.grad)
        if self._is_recording:
            self._passes.join(self._hooks.progress)
            self._require_recorded()
            # not as the model's calls say: a loop may call its layers, and drop some passes
            recorded = self._hooks.progress.layer_inputs.values()
            self._hooks.progress.batch_size = max(sum(map(len, each)) for each in recorded)
        if self._adds_penalty:
            self._join_penalty()
        elif self._hooks.has_penalty and not self._gave_penalty:
            self._gave_penalty = True  # and only once
            warnings.warn(
                f"A step was taken without the penalties of {self._hooks.names}: add attached.penalty() to"
                " the loss, or attach with adds_penalty=True.",
                stacklevel=2,
            )
        if self._hooks.acts_before_step or self._hooks.is_due:  # most steps only count
            self._units.show_trained(
                self._hooks.progress.layer_inputs if self._is_recording else None
            )
        if self._hooks.acts_before_step:
            with self._silent():
                self._hooks.before_step()
        if self._decay is not None:
            self._undecayed = self._decay.join()

    def _join_penalty(self) -> None:
        """Add the gradients of the penalties to those of the loss."""
        progress, on_features = self._hooks.progress, self._hooks.penalizes_features
        recorded = progress.layer_inputs
        with repeated_pass(self._model) if on_features else nullcontext():
            if on_features:  # the backward pass has freed the graph of the loop's own pass
                progress.layer_inputs = {}
                self._repeat_pass()
            with self._acting(on_pass=bool(progress.layer_inputs)):
                penalty = self._hooks.penalty()
            trained = [each for each in self._parameters.values() if each in self._units.optimized]
            join_penalty(penalty, trained)
        progress.layer_inputs = recorded

    def _repeat_pass(self) -> None:
        """Run the model on its latest inputs, and record those of its layers."""
        if self._latest_call is None:
            raise RuntimeError(
                f"{self._hooks.names} needs the features of this step, but no call of the model in training"
                " mode and with gradients was seen since the last one."
            )
        args, kwargs = self._latest_call
        self._is_repeating = True
        try:
            with self._silent():
                self._model(*args, **kwargs)
        finally:
            self._is_repeating = False

    def _require_begun(self) -> None:
        if not self._begun:
            raise RuntimeError(
                f"{self._hooks.names} needs to know the model's inputs or layers, and the model was not"
                " called in training mode with gradients before this step: give attach(…, inputs=…), an"
                " example of its input."
            )

    def _require_recorded(self) -> None:
        if not self._hooks.progress.layer_inputs:
            raise RuntimeError(
                f"{self._hooks.names} needs the features of this step, but no forward pass in training mode"
                " and with gradients was seen since the last one: call model.train() before it, and let"
                " torch.compile(model) compile after attach()."
            )

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: Any) -> None:
        for parameter, gradient in self._undecayed.items():
            parameter.grad = gradient
        self._undecayed = {}
        if not self._skipped:
            if self._hooks.is_due:
                with self._silent():
                    self._hooks.after_step()
            else:
                self._hooks.after_step()
            self._units.show_all()
            self._is_recording = self._hooks.reads_next_step
        self.drop_passes()

    # ---- what a training loop calls -------------------------------------------------------------

    def observe(self, *inputs: Any) -> None:
        """Take the inputs of a forward pass in training, in a loop that calls the model's layers itself.

        Args:
            *inputs: What the model would be called with.
        """
        self._on_call(inputs, {})

    def drop_passes(self) -> None:
        """Forget the forward passes since the last step, whose gradients the loop will not use."""
        self._hooks.progress.forget_step()
        self._passes.forget()
        self._latest_call = None

    def penalty(self) -> Tensor:
        """Return the mitigations' term of the loss, after the forward pass: a number, 0 if there is none.

        With `adds_penalty`, there is none left for the loop.
        """
        found = None
        self._gave_penalty = True
        if self._hooks.has_penalty and not self._adds_penalty:
            self._require_begun()
            with self._acting(on_pass=self._is_recording):
                found = self._hooks.penalty()
        return torch.zeros((), device=self._trained.device) if found is None else found

    def boundary(
        self,
        task: int,
        batches: Iterable[tuple[Tensor, Tensor]] | Batches | None = None,
        loss: Loss | None = None,
    ) -> None:
        """Tell that a task has ended, before the first step on the next one.

        Args:
            task: Index of the task that begins.
            batches: Inputs and labels of that task, or a function that returns them; a mitigation may ask for
                them several times. None: there are none.
            loss: Mean loss of a batch of that task, a function of outputs and labels. None: cross-entropy.

        Raises:
            RuntimeError: if a mitigation needs what was not given.
        """
        self._require_begun()
        every: Any = batches
        with self._acting():
            self._hooks.boundary(
                task,
                [0],
                every if every is None or callable(every) else lambda: every,
                None if loss is None else lambda _: loss,
            )

    @property
    def task(self) -> int:
        """Index of the current task, as `boundary` tells it; 0 before the first."""
        return self._hooks.tasks[0]

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
        self._is_recording = self._hooks.reads_next_step
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


def _first_tensor(given: Iterable[Any]) -> Tensor | None:
    return next((each for each in given if isinstance(each, Tensor)), None)


def _unscale(optimizer: Optimizer) -> None:
    """Divide the gradients by the scale of a `GradScaler`, where a fused step would do so itself."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.div_(scale.to(parameter.grad.device))
    optimizer.grad_scale = None  # type: ignore[attr-defined]
