"""Hooks of a method at work: the mitigations that act while a network, or R stacked ones, are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.mitigations.base import Mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.progress import Batches, Loss, Progress
from plasticity.mitigations.stacked_settings import acts_on_steps, overrides, stack_settings
from plasticity.mitigations.trained import Trained
from plasticity.seeds import child_seed


class Hooks:
    """Mitigations that act on a network in training, or on R stacked ones, with their states.

    A learner calls the methods in the order of a step: it records the inputs of `recorded_layers` in the
    forward pass and passes them to `observe`, adds `penalty`, and calls `before_step` and `after_step`.

    Args:
        methods: Method of each network; those of stacked ones have equal keys (`stack_key`).
        networks: The networks.
        seeds: Seed of each network's noise; each of its mitigations has a named child seed of it.

    Raises:
        ValueError: if the methods cannot be stacked.
    """

    def __init__(
        self, methods: Sequence[Sequence[Mitigation]], networks: Trained, seeds: Sequence[int]
    ) -> None:
        self._methods = [
            sorted(
                filter(acts_on_steps, method), key=lambda each: each.comes_last - each.comes_first
            )
            for method in methods
        ]
        for method in self._methods:
            if len(method) != len(self._methods[0]):
                raise ValueError(
                    "The mitigations of stacked networks must be of one kind, not"
                    f" {[[each.name for each in one] for one in self._methods]}: stack each kind apart."
                )
        for each in self._methods[0]:
            if networks.lead and not each.stackable:
                raise ValueError(
                    f"{each.name} does not support stacked networks: train each by itself."
                )
        self._networks, self._seeds = networks, seeds
        self.progress = Progress()
        """Latest events in the training."""
        self._steps = [0] * len(seeds)
        self.tasks = [0] * len(seeds)
        """Index of the task that began with each network's latest boundary; 0 before the first."""
        self._frozen: set[int] = set()
        like = next(iter(networks.parameters.values()))
        self._mitigations = [
            stack_settings(each, like) for each in zip(*self._methods, strict=True)
        ]
        self._contexts = [
            Context(networks, self.progress, self._generators(each.name))
            for each in self._mitigations
        ]
        self._at_work = list(zip(self._mitigations, self._contexts, strict=True))
        self._before = [each for each in self._at_work if overrides(each[0], "before_step")]
        self._reads_every_step = any(
            _records(each)
            and (
                overrides(each, "penalty")
                or overrides(each, "before_step")
                or (overrides(each, "after_step") and each.cadence == 1)
            )
            for each in self._mitigations
        )
        self._after = [each for each in self._at_work if overrides(each[0], "after_step")]
        self._loaded: dict[int, Mapping[str, Any]] = {}
        self._begun = False

    def _generators(self, name: str) -> list[torch.Generator]:
        return [
            torch.Generator(self._networks.device).manual_seed(child_seed(seed, name))
            for seed in self._seeds
        ]

    @torch.no_grad()
    def begin(self, example: Callable[[], Tensor]) -> None:
        """Make the states at the beginning, or those that were loaded; only the first call does anything.

        Args:
            example: Function that returns a few inputs, which some mitigations need. Shape:
                (..., batch, *input_shape).

        Raises:
            ValueError: if the units of a layer cannot be followed.
        """
        if self._begun:
            return
        if any(each.reads_units for each in self._mitigations):
            self._networks.find_units(example())
        if any(each.reads_roles for each in self._mitigations):
            self._networks.find_roles(example())
        if any(each.reads_example for each in self._mitigations):
            inputs = example()
            self.progress.example = inputs[(0,) * (len(self._networks.lead) + 1)].clone()
        for mitigation, context in self._at_work:
            context.state = mitigation.initial_state(context)
            for memory in mitigation.memories:
                for name in self._networks.parameters:
                    if (kept := context.state.get(f"{memory}/{name}")) is not None:
                        self._networks.memories.setdefault(name, []).append(kept)
        self._begun = True
        for run, state in self._loaded.items():
            self._load(state, run)
        self._loaded.clear()

    # ---- a step ---------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Optimizer steps done so far by the networks that are not frozen."""
        if not self._frozen:
            return self._steps[0]
        live = [step for run, step in enumerate(self._steps) if run not in self._frozen]
        return live[0] if live else 0

    @property
    def reads_every_step(self) -> bool:
        """Whether the hooks need features of every training step."""
        return self._reads_every_step

    @property
    def reads_next_step(self) -> bool:
        """Whether the hooks need features of the next training step."""
        if self._reads_every_step:
            return True
        following = self.step + 1
        return any(_records(each) and following % each.cadence == 0 for each, _ in self._after)

    @property
    def recorded_layers(self) -> tuple[str, ...]:
        """Layers whose inputs the hooks need of the next training step, without repetition."""
        return self.all_recorded_layers if self.reads_next_step else ()

    @property
    def all_recorded_layers(self) -> tuple[str, ...]:
        """Layers whose inputs the hooks need of some training steps."""
        if not any(_records(each) for each in self._mitigations):
            return ()
        every = self._networks.units.values()
        return tuple(dict.fromkeys(each.readers[0].layer for each in every))

    def observe(self, inputs: Tensor, layer_inputs: Mapping[str, Tensor]) -> None:
        """Take the inputs of a training step, and those of its recorded layers."""
        self.progress.inputs = inputs
        self.progress.batch_size = inputs.shape[len(self._networks.lead)]
        self.progress.layer_inputs = {name: [each] for name, each in layer_inputs.items()}

    @property
    def names(self) -> str:
        """Names of the mitigations, for messages."""
        return ", ".join(each.name for each in self._mitigations)

    @property
    def has_penalty(self) -> bool:
        """Whether there is a term of the loss to be added."""
        return any(overrides(each, "penalty") for each in self._mitigations)

    @property
    def penalizes_features(self) -> bool:
        """Whether a term of the loss depends on features."""
        return any(each.penalizes_features for each in self._mitigations)

    @torch.enable_grad()
    def penalty(self) -> Tensor | None:
        """Return the sum of all terms of the loss, with a graph; None if there is none. Shape: (...)."""
        terms = [mitigation.penalty(context) for mitigation, context in self._at_work]
        given = [each for each in terms if each is not None]
        return torch.stack(given).sum(0) if given else None

    @property
    def reads_gradients(self) -> bool:
        """Whether a hook of a step reads gradients of parameters."""
        at_steps = ("before_step", "after_step")
        return any(
            each.reads_gradients and any(overrides(each, hook) for hook in at_steps)
            for each in self._mitigations
        )

    @property
    def acts_before_step(self) -> bool:
        """Whether a hook acts before the optimizer's step."""
        return bool(self._before)

    def before_step(self) -> None:
        """Call the hooks that act before the optimizer's step."""
        if self._before:
            with torch.no_grad():
                for mitigation, context in self._before:
                    mitigation.before_step(context)

    @property
    def is_due(self) -> bool:
        """Whether a hook acts after the next step."""
        return any((self.step + 1) % each[0].cadence == 0 for each in self._after)

    def after_step(self) -> None:
        """Count a step, and call the hooks that are due after it."""
        step = self.step + 1
        if self._frozen:
            self._steps = [
                own if run in self._frozen else step for run, own in enumerate(self._steps)
            ]
        else:
            self._steps = [step] * len(self._steps)
        self.progress.step = step
        due = [each for each in self._after if step % each[0].cadence == 0]
        if self._frozen and due:
            with self._frozen_kept():
                self._act_after(due)
        elif due:
            self._act_after(due)
        self.progress.forget_step()

    @staticmethod
    def _act_after(due: Sequence[tuple[Mitigation, Context]]) -> None:
        # entering the block takes as long as a small layer
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            for mitigation, context in due:
                mitigation.after_step(context)

    @contextmanager
    def _frozen_kept(self) -> Iterator[None]:
        """Keep the weights of frozen networks as they are."""
        parameters = [each.detach() for each in self._networks.parameters.values()]
        kept = [(own[run], own[run].clone()) for run in self._frozen for own in parameters]
        try:
            yield
        finally:
            for own, before in kept:
                own.copy_(before)

    # ---- tasks ----------------------------------------------------------------------------------

    @torch.no_grad()
    def boundary(
        self,
        task: int,
        runs: Sequence[int],
        batches: Batches | None = None,
        losses: Callable[[int], Loss] | None = None,
    ) -> None:
        """Call the hooks that act between two tasks.

        Args:
            task: Index of the task that begins.
            runs: Networks for which it begins; 0 for the only one.
            batches: Function that iterates over the data of the task, with leading dimensions.
            losses: Function that returns the loss of one network on them, without leading dimensions. None:
                cross-entropy.
        """
        self.progress.task = task
        for run in runs:
            self.tasks[run] = task
        for position, context in enumerate(self._contexts):
            for run in runs:
                self.progress.batches = None if batches is None else self._of_run(batches, run)
                self.progress.loss = functional.cross_entropy if losses is None else losses(run)
                own = context.of_run(run) if context.lead else context
                self._methods[run][position].boundary(own)
                if context.lead:
                    context.take_back(own, run)
        self.progress.batches = None

    def _of_run(self, batches: Batches, run: int) -> Batches:
        if not self._networks.lead:
            return batches
        return lambda: ((inputs[run], labels[run]) for inputs, labels in batches())

    @torch.no_grad()
    def evaluation_parameters(self) -> dict[str, Tensor]:
        """Return the parameters to evaluate the networks with, by name, where they are not those trained.

        Before the beginning there are none.

        Raises:
            RuntimeError: if a state was loaded, which the mitigations take only when training continues.
        """
        if self._loaded:
            raise RuntimeError(
                f"The state of {self.names} was loaded, but is not in use before training"
                " continues: train before you measure."
            )
        if not self._begun:
            return {}
        found: dict[str, Tensor] = {}
        for mitigation, context in self._at_work:
            found |= mitigation.evaluation_parameters(context) or {}
        return found

    def evaluating(self) -> AbstractContextManager[None]:
        """Give the networks the parameters that they are evaluated with, inside the block."""
        return replaced_parameters(self._networks.parameters, self.evaluation_parameters())

    # ---- rows, saving and loading ---------------------------------------------------------------

    def take_counts(self, runs: Sequence[int] | None = None) -> list[dict[str, float]]:
        """Return what the mitigations counted on some networks since the last call for each of these.

        Args:
            runs: Indices of the networks. None: all.
        """
        wanted = range(len(self._seeds)) if runs is None else runs
        found: list[dict[str, float]] = [{} for _ in wanted]
        for context in self._contexts:
            if not context.counts:
                continue
            names = list(context.counts)
            numbers = torch.stack(list(context.counts.values()), -1).view(len(self._seeds), -1)
            rows = numbers.tolist()
            for run, own in zip(wanted, found, strict=True):
                own.update(zip(names, rows[run], strict=True))
                for each in context.counts.values():
                    (each[run] if context.lead else each).zero_()
        return found

    def freeze(self, run: int) -> None:
        """Keep a network as it is from now on."""
        self._frozen.add(run)

    def state_dict(self, run: int = 0) -> dict[str, Any]:
        """Return all that the next step of one network's mitigations depends on."""
        if run in self._loaded:
            return dict(self._loaded[run])
        return {
            "steps": self._steps[run],
            "task": self.tasks[run],
            "device": self._networks.device.type,
            **{
                mitigation.name: {
                    "state": _of_run(context.state, context, run) if self._begun else None,
                    "counts": _of_run(context.counts, context, run),
                    "generator": context.generators[run].get_state(),
                }
                for mitigation, context in self._at_work
            },
        }

    def load_state_dict(self, state: Mapping[str, Any], run: int = 0) -> None:
        """Load a network's state, saved stacked or not, on any device.

        A generator continues exactly on the same kind of device. On another, whose numbers differ anyway, it
        is seeded by the number of steps.

        Raises:
            ValueError: if the state is that of other mitigations.
        """
        require_same_mitigations(state, self.state_dict(run))
        self._steps[run], self.tasks[run] = state["steps"], state["task"]
        self.progress.step, self.progress.task = self.step, state["task"]
        if self._begun:
            self._load(state, run)
        else:
            self._loaded[run] = state

    @torch.no_grad()
    def _load(self, state: Mapping[str, Any], run: int) -> None:
        for mitigation, context in zip(self._methods[run], self._contexts, strict=True):
            saved = state[mitigation.name]
            generator = context.generators[run]
            if state["device"] == self._networks.device.type:
                generator.set_state(saved["generator"])
            else:
                seed = child_seed(self._seeds[run], f"{mitigation.name}/{state['steps']}")
                generator.manual_seed(seed)
            own = saved["state"]
            if own is None:  # saved before the beginning
                own = mitigation.initial_state(context.of_run(run) if context.lead else context)
            context.load(own, saved["counts"], run)


@contextmanager
def replaced_parameters(
    parameters: Mapping[str, Tensor], others: Mapping[str, Tensor]
) -> Iterator[None]:
    """Give some parameters other values, inside the block.

    Args:
        parameters: Parameters by name, which are changed in place.
        others: The values, by name.
    """
    own = {name: parameters[name].detach() for name in others}
    kept = {name: each.clone() for name, each in own.items()}
    try:
        for name, each in others.items():
            own[name].copy_(each)
        yield
    finally:
        for name, each in kept.items():
            own[name].copy_(each)


def require_same_mitigations(
    state: Mapping[str, Any] | None, own: Mapping[str, Any] | None
) -> None:
    """Raise an error unless two states of `Hooks` are those of the same mitigations.

    Args:
        state: State to load; None if it was saved without mitigations that act on steps.
        own: State of the hooks that load it; None if there are none.

    Raises:
        ValueError: if the mitigations differ.
    """
    saved, here = (sorted(set(each or {}) - {"steps", "task", "device"}) for each in (state, own))
    if saved != here:
        raise ValueError(
            f"The state belongs to the mitigations {saved}, but these are {here}: load that of a run with the"
            " same method."
        )


def _records(mitigation: Mitigation) -> bool:
    return mitigation.reads_units and mitigation.records_features


def _of_run(numbers: Mapping[str, Tensor], context: Context, run: int) -> dict[str, Tensor]:
    return {name: (each[run] if context.lead else each).clone() for name, each in numbers.items()}
