"""Optimizer over stacked networks that replaces R ordinary ones: `StackedOptimizer`.

The formulas are those of torch's SGD, Adam and AdamW with the decay of `regularized` in them; settings
that may differ between stacked networks (rates, betas, strengths) are one number for each, on the device.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.checks import require_number
from plasticity.optim.decay import decay_toward_, decayed_gradients
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

ADAM_STATE = (("first", "exp_avg"), ("second", "exp_avg_sq"))
"""Matrices of a block, with torch's names of what they hold."""

SGD_STATE = (("first", "momentum_buffer"),)


class StackedOptimizer:
    """Optimizer that does the work of R ordinary regularized ones, over parameters stacked on a first axis.

    ::

        ordinary = [make_network(seed) for seed in range(32)]
        networks = StackedNetworks(ordinary)
        optimizer = StackedOptimizer(
            [regularized(Adam)(n.parameters(), regularizer="syre", ...) for n in ordinary],
            networks.parameters.values(),
        )

    A step never waits for the device, and can be captured in a CUDA graph: everything that changes between
    steps (step counts, rates, the frozen networks) is in tensors whose address stays the same. This does
    not hold for what decides which kernels run: capture after loading a state, and do not capture the
    first step in which a different set of parameters has no gradients.

    Args:
        optimizers: One for each stacked network, over its own parameters. All of one class, the
            regularized SGD, Adam or AdamW, with parameters of equal shapes in groups of equal sizes.
            They may differ in lr, betas, eps, momentum and all settings of the regularizer. Their
            anchors and states are copied; they can be dropped afterwards.
        parameters: The stacked tensors, float32 or float64, in the order of the optimizers' flattened
            groups (`StackedNetworks.in_order_of` returns them in that order). Those of one
            `StackedNetworks` are stepped in one operation, others in separate ones. Shape: (R, *shape).

    Raises:
        TypeError: if an optimizer is of another class, a rate or beta is a tensor, or a parameter is
            not a tensor.
        ValueError: if the optimizers or parameters do not match, or an option that changes the formula
            is set (maximize, amsgrad, nesterov, dampening).

    Examples:
        >>> networks = [nn.Linear(4, 2) for _ in range(3)]
        >>> stacked, Syre = StackedNetworks(networks), regularized(torch.optim.SGD)
        >>> each = [Syre(n.parameters(), lr=0.1, regularizer="syre", strength=1e-3) for n in networks]
        >>> optimizer = StackedOptimizer(each, stacked.parameters.values())
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
        # One network's tensors without memory: a saved state has their strides.
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
        numbers = [[list(each) for each in block.numbers] for block in self._blocks]
        table = torch.tensor(numbers, dtype=wide).permute(2, 0, 1).unsqueeze(-1)
        self._table = table.contiguous().to(device)
        self._narrow = self._table.to(dtype)
        for index, optimizer in enumerate(optimizers):
            self._take(index, optimizer, rows[index])

    # ---- the step -------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, active: Tensor | None = None) -> None:
        """Take one step of every network that is not frozen; skip parameters whose `.grad` is None.

        Args:
            active: Mask of the stacked networks that take this step, on the device; the weights, states
                and step counts of the others stay. None: all. Bool. Shape: (R,).

        Raises:
            TypeError: if `active` is not a tensor of bools.
            ValueError: if it has another shape.
        """
        if active is not None:
            require_active(active, self.num_stacked)
        self._moving = self._active if active is None else self._active & active.unsqueeze(1)
        # A captured step may be replayed after more networks were frozen.
        self._masked = bool(self._frozen) or active is not None or _is_captured(self._active)
        self._split([block for block in self._blocks if self._lacks_some_gradients(block)])
        chosen = [
            row
            for row, block in enumerate(self._blocks)
            if self._parameters[block.positions[0]].grad is not None
        ]
        if not chosen:
            return
        steps = self._table[STEP]
        for counted in [steps] if len(chosen) == len(self._blocks) else [steps[c] for c in chosen]:
            counted.add_(self._moving)
        numbers = self._adam_numbers() if self._is_adam else None
        for row in chosen:
            block, own = self._blocks[row], self._narrow[:, row]
            weights, gradient = self._decayed(block, own)
            if numbers is None:
                self._sgd(block, weights, gradient, own)
            else:
                rates, scales = numbers
                self._adam(block, weights, gradient, own, rates[row], scales[row])

    def _adam_numbers(self) -> tuple[Tensor, Tensor]:
        """Return rate / first bias correction, and 1 / root of the second. Shape: (blocks, R, 1)."""
        corrections = (self._table[LOG_FIRST : LOG_SECOND + 1] * self._table[STEP]).expm1_().neg_()
        rates = self._table[RATE] / corrections[0]
        return rates.to(self._narrow.dtype), corrections[1].rsqrt().to(self._narrow.dtype)

    def _decayed(self, block: Block, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights and the gradient that the step without decay starts from."""
        weights = block.weights
        gradient = side_by_side(
            [_gradient(self._parameters[position]) for position in block.positions]
        )
        anchors = None if block.anchors is None else [block.anchors]
        factors = None if block.factors is None else [block.factors]
        if block.coupled:
            (gradient,) = decayed_gradients(
                [gradient], [weights], anchors, numbers[COUPLED], factors
            )
        if block.decoupled:
            if self._masked:
                weights = weights.clone()  # some rows must stay
            decay_toward_([weights], anchors, numbers[RATE] * numbers[DECOUPLED], factors)
        return weights, gradient

    def _sgd(self, block: Block, weights: Tensor, gradient: Tensor, numbers: Tensor) -> None:
        if block.first is not None:
            # It starts at zero, so that after the first step it is the gradient, as in torch.
            gradient = torch.addcmul(gradient, block.first, numbers[FIRST])
            self._keep(block.first, gradient)
        out = self._out(block.weights)
        moved = torch.addcmul(weights, gradient, numbers[RATE], value=-1, out=out)
        self._keep(block.weights, moved)

    def _adam(
        self,
        block: Block,
        weights: Tensor,
        gradient: Tensor,
        numbers: Tensor,
        rate: Tensor,
        scale: Tensor,
    ) -> None:
        assert block.first is not None
        assert block.second is not None
        first, second = block.first, block.second
        mean = torch.lerp(first, gradient, numbers[FIRST], out=self._out(first))
        square = torch.lerp(second, gradient.square(), numbers[SECOND], out=self._out(second))
        self._keep(first, mean)
        self._keep(second, square)
        divisor = torch.addcmul(numbers[EPSILON], square.sqrt(), scale)
        out = self._out(block.weights)
        moved = torch.addcdiv(weights, mean * rate, divisor, value=-1, out=out)
        self._keep(block.weights, moved)

    def _out(self, target: Tensor) -> Tensor | None:
        """Return the output for a new value of `target`: itself, unless some rows must stay."""
        return None if self._masked else target

    def _keep(self, target: Tensor, new: Tensor) -> None:
        """Set `target` to its new value, except for the rows of networks that do not take this step."""
        if self._masked:
            # Not a multiplication by 0, which a NaN would survive.
            torch.where(self._moving, new, target, out=target)
        elif new is not target:
            target.copy_(new)

    def moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the state of a stacked parameter by torch's names, as views; empty if there is none.

        Shape of each: (R, *shape).

        Raises:
            ValueError: if it is not one of this optimizer's parameters.
        """
        for block in self._blocks:
            for position, columns in zip(block.positions, block.columns, strict=True):
                if self._parameters[position] is parameter:
                    names = ADAM_STATE if self._is_adam else SGD_STATE
                    matrices = ((name, getattr(block, own)) for own, name in names)
                    return {
                        name: matrix[:, columns].view(parameter.shape)
                        for name, matrix in matrices
                        if matrix is not None
                    }
        raise _foreign(parameter)

    def learning_rates(self, parameter: Tensor) -> Tensor:
        """Return the learning rate of a stacked parameter in each network, 0 in a frozen one. Shape: (R,).

        Raises:
            ValueError: if it is not one of this optimizer's parameters.
        """
        for row, block in enumerate(self._blocks):
            if any(self._parameters[position] is parameter for position in block.positions):
                return torch.where(self._active, self._narrow[RATE, row], 0).squeeze(-1)
        raise _foreign(parameter)

    @torch.no_grad()
    def restart(self, parameters: Iterable[Tensor], index: int | None = None) -> None:
        """Return the state of parameters to what it is before the first step: moments and step counts.

        Args:
            parameters: Stacked parameters of this optimizer.
            index: The network whose state it is. None: all.
        """
        wanted = {id(each) for each in parameters}
        chosen = [
            [id(self._parameters[position]) in wanted for position in block.positions]
            for block in self._blocks
        ]
        # the parameters of a block share their count of steps
        self._split(
            [b for b, own in zip(self._blocks, chosen, strict=True) if any(own) and not all(own)]
        )
        runs = slice(None) if index is None else index
        for row, block in enumerate(self._blocks):
            if id(self._parameters[block.positions[0]]) not in wanted:
                continue
            self._table[STEP, row, runs] = 0
            for matrix in (block.first, block.second):
                if matrix is not None:
                    matrix[runs] = 0

    def zero_grad(self) -> None:
        """Set every `.grad` to None."""
        for parameter in self._parameters:
            parameter.grad = None

    def set_learning_rate(self, rates: float | Sequence[float]) -> None:
        """Set the learning rate of all groups. Does not wait for the device.

        Args:
            rates: One rate for all stacked networks, or one for each, at least 0.

        Raises:
            TypeError: if a rate is not a number.
            ValueError: if a rate is negative or not finite, or their number is not R.
        """
        each = list(rates) if isinstance(rates, Sequence) else [rates] * self.num_stacked
        each = [require_number("A learning rate", rate, minimum=0.0) for rate in each]
        if len(each) != self.num_stacked:
            raise ValueError(
                f"{len(each)} learning rates were given for {self.num_stacked} stacked networks: give one"
                " for each, or a single number."
            )
        if len(set(each)) == 1:
            self._table[RATE].fill_(each[0])
        else:
            column = torch.tensor(each, dtype=self._table.dtype).view(-1, 1)
            self._table[RATE].copy_(column, non_blocking=True)
        self._narrow[RATE].copy_(self._table[RATE])
        for groups, rate in zip(self._groups, each, strict=True):
            for group in groups:
                group["lr"] = rate

    def freeze(self, index: int) -> None:
        """Freeze a stacked network from now on, whatever its gradients, without waiting for the device.

        Raises:
            IndexError: if there is no stacked network of this index.
        """
        require_index(index, self.num_stacked)
        self._frozen.add(index)
        self._active[index].fill_(False)

    # ---- blocks ---------------------------------------------------------------------------------

    def _lacks_some_gradients(self, block: Block) -> bool:
        missing = [self._parameters[position].grad is None for position in block.positions]
        return any(missing) and not all(missing)

    def _split(self, uneven: Sequence[Block]) -> None:
        """Split these blocks into one per parameter, because theirs are no longer stepped alike."""
        if not uneven:
            return
        rows: list[int] = []
        blocks: list[Block] = []
        for row, block in enumerate(self._blocks):
            pieces = pieces_of(block) if any(block is each for each in uneven) else [block]
            blocks += pieces
            rows += [row] * len(pieces)
        self._blocks = blocks
        self._table = self._table[:, rows].contiguous()
        self._narrow = self._narrow[:, rows].contiguous()

    # ---- saving and loading ---------------------------------------------------------------------

    def state_dict(self, index: int) -> dict[str, Any]:
        """Return a stacked network's state in the format of an ordinary optimizer, which continues from it.

        Raises:
            IndexError: if there is no stacked network of this index.
        """
        require_index(index, self.num_stacked)
        state: dict[int, dict[str, Tensor]] = {}
        anchors: dict[int, Tensor] = {}
        for row, block in enumerate(self._blocks):
            step = self._table[STEP, row, index].to("cpu", torch.float32)
            for position, columns in zip(block.positions, block.columns, strict=True):
                if step > 0 and (entries := self._saved(block, position, index, columns, step[0])):
                    state[position] = entries
                if self._group_of(index, position)["regularizer"] == "l2-init":
                    assert block.anchors is not None
                    anchors[position] = self._unstacked(block.anchors, position, index, columns)
        if anchors:  # in the format of plasticity.optim.saved_anchors
            state = {position: state.get(position, {}) for position in range(len(self._forms))}
            for position, anchor in anchors.items():
                state[position] = {**state[position], ANCHOR: anchor}
        return {
            "state": dict(sorted(state.items())),
            "param_groups": copy.deepcopy(self._groups[index]),
        }

    def _saved(
        self, block: Block, position: int, index: int, columns: slice, step: Tensor
    ) -> dict[str, Tensor]:
        if self._is_adam:
            assert block.first is not None
            assert block.second is not None
            return {
                "step": step.clone(),  # on the CPU: a fused optimizer moves it, others keep it there
                "exp_avg": self._unstacked(block.first, position, index, columns),
                "exp_avg_sq": self._unstacked(block.second, position, index, columns),
            }
        if block.first is None or not self._group_of(index, position)["momentum"]:
            return {}
        return {"momentum_buffer": self._unstacked(block.first, position, index, columns)}

    def _unstacked(self, matrix: Tensor, position: int, index: int, columns: slice) -> Tensor:
        """Return a copy of one parameter's part, with the strides of an ordinary network's parameter."""
        form = self._forms[position]
        made = torch.empty_like(form, device=matrix.device)
        return made.copy_(matrix[index, columns].view(form.shape))

    def _group_of(self, index: int, position: int) -> dict[str, Any]:
        return next(group for group in self._groups[index] if position in group["params"])

    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Load the state of an ordinary optimizer of the same class, saved on any device, into one network.

        As with the ordinary one, the settings saved in the groups replace the current ones. A frozen
        network takes the state and stays frozen.

        Raises:
            IndexError: if there is no stacked network of this index.
            TypeError: if a saved setting has the wrong type.
            ValueError: if the groups do not fit, or a saved setting cannot be stacked.
        """
        require_index(index, self.num_stacked)
        optimizer = self._ordinary(index)
        optimizer.load_state_dict(dict(state))
        require_formula(optimizer, index)
        rows = numbers_of(optimizer)
        self._split(
            [b for b in self._blocks if len({rows[position] for position in b.positions}) > 1]
        )
        self._take(index, optimizer, rows)

    def _ordinary(self, index: int) -> RegularizedOptimizer:
        """Return a new ordinary optimizer with one network's settings, over tensors of its shapes."""
        _, anchors = without_anchors(self.state_dict(index))
        device = self._active.device
        parameters = [torch.zeros_like(form, device=device) for form in self._forms]
        known = (*self._base_options, *SETTING_NAMES, "fan_in", "anchor_position")
        groups = [
            {key: group[key] for key in known if key in group and key != "weight_decay"}
            | {"params": [parameters[position] for position in group["params"]]}
            for group in self._groups[index]
        ]
        held = {parameters[position]: anchor for position, anchor in anchors.items()}
        return self._class(groups, initial_weights=held)

    @torch.no_grad()
    def _take(self, index: int, optimizer: RegularizedOptimizer, rows: Sequence[Numbers]) -> None:
        """Copy an ordinary optimizer's settings, anchors and state into one stacked network."""
        self._groups[index] = copy.deepcopy(optimizer.state_dict()["param_groups"])
        targets = targets_of(optimizer)
        parameters = flat_parameters(optimizer)
        for row, block in enumerate(self._blocks):
            numbers = rows[block.positions[0]]
            block.numbers[index] = numbers
            block.coupled = any(each.coupled for each in block.numbers)
            block.decoupled = any(each.decoupled for each in block.numbers)
            self._table[:, row, index, 0] = torch.tensor(numbers, dtype=self._table.dtype)
            self._narrow[:, row, index] = self._table[:, row, index].to(self._narrow.dtype)
            own = [targets[position] for position in block.positions]
            anchors, factors = [each.anchor for each in own], [each.factors for each in own]
            block.anchors = with_row(block.anchors, index, block, anchors, 0.0)
            block.factors = with_row(block.factors, index, block, factors, 1.0)
            states = [optimizer.state.get(parameters[position], {}) for position in block.positions]
            for name, key in self._state_keys(block):
                parts = [state.get(key) for state in states]
                setattr(block, name, with_row(getattr(block, name), index, block, parts, 0.0))

    def _state_keys(self, block: Block) -> Iterable[tuple[str, str]]:
        if self._is_adam:
            for name in ("first", "second"):
                if getattr(block, name) is None:
                    setattr(block, name, zeros_like_block(block))
            return ADAM_STATE
        if block.first is None and any(numbers.first_weight for numbers in block.numbers):
            block.first = zeros_like_block(block)
        return SGD_STATE


def _foreign(parameter: Tensor) -> ValueError:
    return ValueError(
        f"This tensor of shape {tuple(parameter.shape)} is no parameter of the optimizer: give one of the"
        " stacked parameters."
    )


def _is_captured(tensor: Tensor) -> bool:
    return torch.compiler.is_compiling() or (
        tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    )


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
