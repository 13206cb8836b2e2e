"""R ordinary optimizers as one: `StackedOptimizer`.

The formulas are those of torch's SGD, Adam and AdamW with the decay of `regularized` in them; what
differs between replicas (rates, betas, strengths) is a number of its own for each, kept on the device.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.checks import require_number
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.saved_anchors import ANCHOR, without_anchors
from plasticity.optim.settings import SETTING_NAMES
from plasticity.optim.stacked_blocks import (
    COUPLED,
    DECOUPLED,
    EPSILON,
    FIRST,
    LOG_FIRST,
    LOG_SECOND,
    RATE,
    SECOND,
    STEP,
    Block,
    Numbers,
    adjacent_blocks,
    flat_parameters,
    numbers_of,
    pieces_of,
    side_by_side,
    targets_of,
    with_row,
    zeros_like_block,
)
from plasticity.optim.stacked_requirements import (
    require_active,
    require_alike,
    require_fitting,
    require_formula,
)
from plasticity.stacking.networks import require_index


class StackedOptimizer:
    """R ordinary regularized optimizers as one, over parameters stacked along a first axis.

    ::

        networks = [make_network(seed) for seed in range(32)]
        replicas = StackedNetworks(networks)
        optimizer = StackedOptimizer(
            [regularized(Adam)(n.parameters(), regularizer="syre", ...) for n in networks],
            replicas.parameters.values(),
        )

    A step never waits for the device, and can be captured in a CUDA graph: what changes between steps
    (step counts, rates, which replicas are frozen) is in tensors whose place stays. What decides which
    kernels run does not: capture after loading a state, and not a first step with other parameters
    without gradients than before.

    Args:
        optimizers: One for each replica, over its own network's parameters. All of one class, the
            regularized SGD, Adam or AdamW, with parameters of equal shapes in groups of equal sizes.
            They may differ in lr, betas, eps, momentum and all settings of the regularizer. Their
            anchors and states are copied; they can be dropped afterwards.
        parameters: The stacked tensors, float32 or float64, in the order of the optimizers' flattened
            groups (`StackedNetworks.in_order_of` puts them into it). Those of one `StackedNetworks` are
            stepped together, others apart. Shape: (R, *shape).

    Raises:
        TypeError: if an optimizer is none of those classes, a rate or beta is a tensor, or a parameter
            is none.
        ValueError: if the optimizers or parameters do not belong together, or an option that changes
            the formula is set (maximize, amsgrad, nesterov, dampening).
    """

    def __init__(
        self, optimizers: Iterable[RegularizedOptimizer], parameters: Iterable[Tensor]
    ) -> None:
        optimizers, parameters = list(optimizers), list(parameters)
        require_alike(optimizers)
        require_fitting(optimizers, parameters)
        self.num_stacked = len(optimizers)
        self._class = type(optimizers[0])
        self._is_adam = self._class.base is not torch.optim.SGD
        self._base_options = tuple(optimizers[0].defaults)
        self._parameters = parameters
        # One network's tensors without memory: their strides are those that a state is saved with.
        self._forms = [torch.empty_like(p, device="meta") for p in flat_parameters(optimizers[0])]
        device, dtype = parameters[0].device, parameters[0].dtype
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._active = torch.ones(self.num_stacked, 1, dtype=torch.bool, device=device)
        self._frozen: set[int] = set()
        self._masked = False
        self._moving = self._active
        self._groups: list[list[dict[str, Any]]] = [[] for _ in optimizers]
        rows = [numbers_of(optimizer) for optimizer in optimizers]
        every = list(zip(*rows, strict=True))
        self._blocks = adjacent_blocks(self._parameters, every)
        self._table = torch.zeros(0, dtype=wide, device=device)
        self._narrow = torch.zeros(0, dtype=dtype, device=device)
        self._make_table()
        for index, optimizer in enumerate(optimizers):
            self._take(index, optimizer, rows[index])

    # ---- the step -------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, active: Tensor | None = None) -> None:
        """Do one step of every replica that is not frozen; parameters whose `.grad` is None wait.

        Args:
            active: Which replicas take this step, on the device; the others' weights, states and step
                counts stay. None: all. Bool. Shape: (R,).

        Raises:
            TypeError: if `active` is no tensor of bools.
            ValueError: if it has another shape.
        """
        if active is not None:
            require_active(active, self.num_stacked)
        self._moving = self._active if active is None else self._active & active.unsqueeze(1)
        # A captured step is replayed after replicas were frozen that were not when it was captured.
        self._masked = bool(self._frozen) or active is not None or _is_captured(self._active)
        self._split([block for block in self._blocks if self._lacks_some_gradients(block)])
        chosen = [
            place
            for place, block in enumerate(self._blocks)
            if self._parameters[block.places[0]].grad is not None
        ]
        if not chosen:
            return
        steps = self._table[STEP]
        for counted in [steps] if len(chosen) == len(self._blocks) else [steps[c] for c in chosen]:
            counted.add_(self._moving)
        numbers = self._adam_numbers() if self._is_adam else None
        for place in chosen:
            block = self._blocks[place]
            gradient = self._decayed_gradient(block, self._narrow[:, place])
            if numbers is None:
                self._sgd(block, gradient, self._narrow[:, place])
            else:
                rates, scales = numbers
                self._adam(block, gradient, self._narrow[:, place], rates[place], scales[place])

    def _adam_numbers(self) -> tuple[Tensor, Tensor]:
        """Rate over the first bias correction, and 1 over the root of the second. (blocks, R, 1)."""
        corrections = (self._table[LOG_FIRST : LOG_SECOND + 1] * self._table[STEP]).expm1_().neg_()
        rates = self._table[RATE] / corrections[0]
        return rates.to(self._narrow.dtype), corrections[1].rsqrt().to(self._narrow.dtype)

    def _decayed_gradient(self, block: Block, numbers: Tensor) -> Tensor:
        """A coupled decay joins the gradient; a decoupled one moves the weights at once."""
        gradient = side_by_side([_gradient(self._parameters[place]) for place in block.places])
        if not (block.coupled or block.decoupled):
            return gradient
        direction = block.weights if block.anchors is None else block.weights - block.anchors
        if block.factors is not None:
            direction = direction * block.factors
        if block.coupled:
            gradient = torch.addcmul(gradient, direction, numbers[COUPLED])
        if block.decoupled:
            amounts = numbers[RATE] * numbers[DECOUPLED]
            moved = torch.addcmul(
                block.weights, direction, amounts, value=-1, out=self._out(block.weights)
            )
            self._keep(block.weights, moved)
        return gradient

    def _sgd(self, block: Block, gradient: Tensor, numbers: Tensor) -> None:
        weights, buffer = block.weights, block.first
        if buffer is not None:
            # It begins at zero, which makes the first step's buffer the gradient, as torch's is.
            gradient = torch.addcmul(gradient, buffer, numbers[FIRST])
            self._keep(buffer, gradient)
        moved = torch.addcmul(weights, gradient, numbers[RATE], value=-1, out=self._out(weights))
        self._keep(weights, moved)

    def _adam(
        self, block: Block, gradient: Tensor, numbers: Tensor, rate: Tensor, scale: Tensor
    ) -> None:
        assert block.first is not None
        assert block.second is not None
        first, second, weights = block.first, block.second, block.weights
        mean = torch.lerp(first, gradient, numbers[FIRST], out=self._out(first))
        square = torch.lerp(second, gradient.square(), numbers[SECOND], out=self._out(second))
        self._keep(first, mean)
        self._keep(second, square)
        divisor = torch.addcmul(numbers[EPSILON], square.sqrt(), scale)
        moved = torch.addcdiv(weights, mean * rate, divisor, value=-1, out=self._out(weights))
        self._keep(weights, moved)

    def _out(self, target: Tensor) -> Tensor | None:
        """Where to write a new value of `target`: in its place, unless some rows must stay."""
        return None if self._masked else target

    def _keep(self, target: Tensor, new: Tensor) -> None:
        """Let `target` have its new value, but for the rows of frozen replicas."""
        if self._masked:
            # Not a multiplication by 0, which a NaN would survive.
            torch.where(self._moving, new, target, out=target)
        elif new is not target:
            target.copy_(new)

    def zero_grad(self) -> None:
        """Set every `.grad` to None."""
        for parameter in self._parameters:
            parameter.grad = None

    def set_learning_rate(self, rates: float | Sequence[float]) -> None:
        """Set the learning rate of all groups. Does not wait for the device.

        Args:
            rates: One for all replicas, or one for each, at least 0.

        Raises:
            TypeError: if a rate is no number.
            ValueError: if a rate is negative or not finite, or their number is not R.
        """
        each = list(rates) if isinstance(rates, Sequence) else [rates] * self.num_stacked
        each = [require_number("A learning rate", rate, minimum=0.0) for rate in each]
        if len(each) != self.num_stacked:
            raise ValueError(
                f"{len(each)} learning rates were given for {self.num_stacked} replicas."
            )
        if len(set(each)) == 1:
            self._table[RATE].fill_(each[0])
        else:
            column = torch.tensor(each, dtype=self._table.dtype).view(-1, 1)
            self._table[RATE].copy_(column, non_blocking=True)
        self._narrow[RATE].copy_(self._table[RATE])
        for block in self._blocks:
            block.numbers = [n._replace(rate=r) for n, r in zip(block.numbers, each, strict=True)]
        for groups, rate in zip(self._groups, each, strict=True):
            for group in groups:
                group["lr"] = rate

    def freeze(self, index: int) -> None:
        """Leave a replica as it is from now on, whatever its gradients. Does not wait for the device.

        Raises:
            IndexError: if there is no such replica.
        """
        require_index(index, self.num_stacked)
        self._frozen.add(index)
        self._active[index].fill_(False)

    # ---- blocks ---------------------------------------------------------------------------------

    def _lacks_some_gradients(self, block: Block) -> bool:
        missing = [self._parameters[place].grad is None for place in block.places]
        return any(missing) and not all(missing)

    def _split(self, parted: Sequence[Block]) -> None:
        """Make a block of its own of every parameter in these: they are no longer stepped alike."""
        if not parted:
            return
        rows: list[int] = []
        blocks: list[Block] = []
        for row, block in enumerate(self._blocks):
            pieces = pieces_of(block) if any(block is each for each in parted) else [block]
            blocks += pieces
            rows += [row] * len(pieces)
        self._blocks = blocks
        self._table = self._table[:, rows].contiguous()
        self._narrow = self._narrow[:, rows].contiguous()

    def _make_table(self) -> None:
        numbers = [[list(each) for each in block.numbers] for block in self._blocks]
        table = torch.tensor(numbers, dtype=self._table.dtype).permute(2, 0, 1).unsqueeze(-1)
        self._table = table.contiguous().to(self._active.device)
        self._narrow = self._table.to(self._narrow.dtype)

    # ---- saving and loading ---------------------------------------------------------------------

    def state_dict(self, index: int) -> dict[str, Any]:
        """A replica's state as that of an ordinary optimizer, which loads it and goes on equally.

        Raises:
            IndexError: if there is no such replica.
        """
        require_index(index, self.num_stacked)
        state: dict[int, dict[str, Tensor]] = {}
        anchors: dict[int, Tensor] = {}
        for row, block in enumerate(self._blocks):
            step = self._table[STEP, row, index].to("cpu", torch.float32)
            for place, columns in zip(block.places, block.columns, strict=True):
                if step > 0 and (entries := self._saved(block, place, index, columns, step[0])):
                    state[place] = entries
                if self._group_of(index, place)["regularizer"] == "l2-init":
                    assert block.anchors is not None
                    anchors[place] = self._unstacked(block.anchors, place, index, columns)
        if anchors:  # as plasticity.optim.saved_anchors puts them
            state = {place: state.get(place, {}) for place in range(len(self._forms))}
            for place, anchor in anchors.items():
                state[place] = {**state[place], ANCHOR: anchor}
        return {
            "state": dict(sorted(state.items())),
            "param_groups": copy.deepcopy(self._groups[index]),
        }

    def _saved(
        self, block: Block, place: int, index: int, columns: slice, step: Tensor
    ) -> dict[str, Tensor]:
        if self._is_adam:
            assert block.first is not None
            assert block.second is not None
            return {
                "step": step.clone(),  # on the CPU: a fused optimizer moves it, another keeps it there
                "exp_avg": self._unstacked(block.first, place, index, columns),
                "exp_avg_sq": self._unstacked(block.second, place, index, columns),
            }
        if block.first is None or not self._group_of(index, place)["momentum"]:
            return {}
        return {"momentum_buffer": self._unstacked(block.first, place, index, columns)}

    def _unstacked(self, matrix: Tensor, place: int, index: int, columns: slice) -> Tensor:
        """A copy of one parameter's part, in the strides of an ordinary network's parameter."""
        form = self._forms[place]
        made = torch.empty_like(form, device=matrix.device)
        return made.copy_(matrix[index, columns].view(form.shape))

    def _group_of(self, index: int, place: int) -> dict[str, Any]:
        return next(group for group in self._groups[index] if place in group["params"])

    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Give a replica the state of an ordinary optimizer of its class, saved on any device.

        As with the ordinary one, the settings saved in the groups take the place of the replica's. A
        frozen replica gets the state and stays frozen.

        Raises:
            IndexError: if there is no such replica.
            TypeError: if a saved setting has the wrong type.
            ValueError: if the groups do not fit, or a saved setting cannot be stacked.
        """
        require_index(index, self.num_stacked)
        optimizer = self._ordinary(index)
        optimizer.load_state_dict(dict(state))
        require_formula(optimizer, index)
        rows = numbers_of(optimizer)
        self._split([b for b in self._blocks if len({rows[place] for place in b.places}) > 1])
        self._take(index, optimizer, rows)

    def _ordinary(self, index: int) -> RegularizedOptimizer:
        """A new ordinary optimizer with a replica's settings, over tensors of one network's shapes."""
        _, anchors = without_anchors(self.state_dict(index))
        device = self._active.device
        parameters = [torch.zeros_like(form, device=device) for form in self._forms]
        known = (*self._base_options, *SETTING_NAMES, "fan_in", "anchor_position")
        groups = [
            {key: group[key] for key in known if key in group and key != "weight_decay"}
            | {"params": [parameters[place] for place in group["params"]]}
            for group in self._groups[index]
        ]
        held = {parameters[place]: anchor for place, anchor in anchors.items()}
        return self._class(groups, initial_weights=held)

    @torch.no_grad()
    def _take(self, index: int, optimizer: RegularizedOptimizer, rows: Sequence[Numbers]) -> None:
        """Take an ordinary optimizer's settings, anchors and state as those of a replica."""
        self._groups[index] = copy.deepcopy(optimizer.state_dict()["param_groups"])
        targets = targets_of(optimizer)
        parameters = flat_parameters(optimizer)
        for row, block in enumerate(self._blocks):
            numbers = rows[block.places[0]]
            block.numbers[index] = numbers
            block.coupled = any(each.coupled for each in block.numbers)
            block.decoupled = any(each.decoupled for each in block.numbers)
            self._table[:, row, index, 0] = torch.tensor(numbers, dtype=self._table.dtype)
            self._narrow[:, row, index] = self._table[:, row, index].to(self._narrow.dtype)
            own = [targets[place] for place in block.places]
            anchors, factors = [each.anchor for each in own], [each.factors for each in own]
            block.anchors = with_row(block.anchors, index, block, anchors, 0.0)
            block.factors = with_row(block.factors, index, block, factors, 1.0)
            states = [optimizer.state.get(parameters[place], {}) for place in block.places]
            for name, key in self._state_keys(block):
                parts = [state.get(key) for state in states]
                setattr(block, name, with_row(getattr(block, name), index, block, parts, 0.0))

    def _state_keys(self, block: Block) -> Iterable[tuple[str, str]]:
        if self._is_adam:
            for name in ("first", "second"):
                if getattr(block, name) is None:
                    setattr(block, name, zeros_like_block(block))
            return (("first", "exp_avg"), ("second", "exp_avg_sq"))
        if block.first is None and any(numbers.first_weight for numbers in block.numbers):
            block.first = zeros_like_block(block)
        return (("first", "momentum_buffer"),)


def _is_captured(tensor: Tensor) -> bool:
    return torch.compiler.is_compiling() or (
        tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    )


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
