"""Mitigations in any training loop: `attach` puts them on a model and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from plasticity.initialization import Distribution
from plasticity.mitigations.attached import Attached
from plasticity.mitigations.base import Mitigation
from plasticity.mitigations.method import SeededMethod
from plasticity.seeds import child_seed


def attach(
    model: nn.Module,
    optimizer: Optimizer,
    *mitigations: Mitigation,
    seed: int = 0,
    inputs: Any = None,
    layers: Sequence[str] | None = None,
    readers: Mapping[str, str] | None = None,
    initialize: Mapping[str, Distribution] | None = None,
    adds_penalty: bool = False,
    state: Mapping[str, Any] | None = None,
) -> Attached:
    """Let mitigations act on a model in a training loop of any kind, at the steps of its optimizer.

    ::

        attached = attach(model, optimizer, ReDo(every=1000), Syre(strength=1e-3, sigma=0.3), seed=0)
        for images, labels in batches:
            loss = cross_entropy(model(images), labels) + attached.penalty()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    Only the first line is needed, unless a mitigation has a penalty, or acts between tasks
    (`attached.boundary(task)`). For the loops of Stable-Baselines3, Hugging Face and Lightning there are
    callbacks: `plasticity.sb3.MitigationCallback`, `plasticity.integrations`.

    Save `attached.state_dict()` beside those of model and optimizer. To continue, attach the same mitigations
    first, and load all three afterwards; or load model and optimizer, and attach with `state=`.
    `attached.take_counts()` tells how many units were reset, and `attached.detach()` restores the plain loop.

    - **What counts.** Features are those of all forward passes since the last step, with gradients and in
      training mode; gradients can be accumulated over micro-batches. Gradients are clipped by the loop
      before the mitigations see them. A step that a `GradScaler` skips is none. Its passes are
      recognized as dropped if `zero_grad()` sets the gradients to None, as it does by default.
    - **Closures.** The closure of a step is evaluated before the mitigations act, and its loss is handed on
      to the step, which must evaluate it once (all of torch's but LBFGS do).
    - **What is acted on.** Units whose weights, and all that read them, the optimizer trains; not those with
      a frozen weight, or that did not run in this step.
    - **Distributed.** Every process attaches with the same seed. Statistics of units are averaged over
      processes, so that all reset the same units, and so are the gradients that mitigations add, or that
      belong to parameters which they add.
    - **Passes of their own.** Mitigations that run the model again (`churn`, `infer`) need one that is called
      with one tensor.
    - **Compiled.** Attach before the first call. The hooks run outside compiled code, which breaks the graph
      at each layer that reads units, so that `fullgraph=True` is refused by the compiler.
    - **New parameters.** Those that a mitigation adds to the model join the optimizer's first group, or one
      of their own in a regularized optimizer: make its scheduler afterwards.
    - **Copies.** Mitigations do not act on a copy of the model or optimizer: attach to these anew. A copy of
      the model warns of it when it is trained.
    - **Decays.** They do the same as `regularized(...)` with `parameter_groups(model, ...)`, to rounding.

    Args:
        model: The model, wrapped or not. A compiled one must not have been called yet.
        optimizer: Optimizer of its parameters.
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
        adds_penalty: Whether to add the gradients of penalties to those of the loss right before a step, for
            a loop whose loss cannot be changed; they are then not clipped by the loop. Penalties on features
            take a further forward pass, on the inputs of the model's latest call, in full precision.
        state: State of the same mitigations to continue from (`state_dict`), where the model and the
            optimizer have theirs already; initial weights are then not changed.

    Returns:
        A handle with the state of the mitigations.

    Raises:
        TypeError: if an argument has the wrong type, or the optimizer evaluates closures repeatedly (LBFGS).
        KeyError: if there is no layer of a name in `layers`.
        ValueError: if the mitigations cannot be combined, with each other or with those attached before, one
            changes the network's architecture, the optimizer decays already, or has none of the model's
            parameters, the model was compiled and called before, or the units of a layer cannot be
            followed; the message then names the layers that can.

    Examples:
        >>> from plasticity.mitigations import ReDo
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> attached = attach(model, optimizer, ReDo(every=100), seed=0)
    """
    return Attached(
        model,
        optimizer,
        SeededMethod(mitigations, child_seed(seed, "anchor"), child_seed(seed, "mitigations")),
        inputs=inputs,
        layers=layers,
        readers=readers,
        initialize=initialize,
        adds_penalty=adds_penalty,
        state=state,
    )
