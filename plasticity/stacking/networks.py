"""Many networks of one architecture run as one, with parameters stacked along a leading axis.

A small network leaves most of a GPU idle, and a loop over many of them is limited by kernel launches. R
stacked networks need only as many launches as one. Each stacked network computes what it would compute
alone, and none affects another, not even through a NaN.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from plasticity.checks import nearest
from plasticity.recording import record_inputs, recorded_inputs
from plasticity.stacking.convolution import use_convolutions, use_products

_ROW_MULTIPLE = 32
"""Multiple to which the length of a network's row of parameters is rounded up, to align every row."""


class StackedNetworks:
    """R networks of one architecture, run as one.

    ::

        networks = StackedNetworks([make_network(seed) for seed in range(32)])
        logits = networks(images)  # (32, batch, 1, 28, 28) to (32, batch, 10)

    Buffers (running statistics) are stacked like the parameters. All parameters share one block of memory
    with a row for each network, which `StackedOptimizer` steps with one kernel per operation.

    Args:
        networks: R networks of one architecture on one device: equal modules with equal settings, which
            is checked as far as their printed form shows them. Their weights are copied.
        convolution: Form of two-dimensional convolutions: "grouped", one convolution with a group for
            each network, or "products", matrix products (`plasticity.stacking.convolution`). None:
            "products" on CUDA, an expectation that has not been measured; "grouped" elsewhere.

    Raises:
        TypeError: if `networks` is not an iterable of modules.
        ValueError: if it is empty, the architectures differ, a parameter is lazy or is shared in
            another way than in the first network, the parameters have several dtypes, or a layer
            draws random numbers (dropout).

    Examples:
        >>> stacked = StackedNetworks([nn.Linear(4, 2) for _ in range(3)])
        >>> stacked(torch.randn(3, 8, 4)).shape
        torch.Size([3, 8, 2])
    """

    num_stacked: int
    """Number of stacked networks, R."""

    parameters: dict[str, Tensor]
    """Parameters by their names in each network; leaves that take gradients. Shape of each: (R, *shape)."""

    buffers: dict[str, Tensor]
    """Buffers by name, like the parameters. Shape of each: (R, *shape)."""

    template: nn.Module
    """Network whose `forward` is run; its own weights have no meaning."""

    def __init__(
        self,
        networks: Iterable[nn.Module],
        *,
        convolution: Literal["grouped", "products"] | None = None,
    ) -> None:
        networks = _listed(networks)
        _require_one_architecture(networks)
        if convolution not in (None, "grouped", "products"):
            raise ValueError(
                f"Unknown convolution {convolution!r}.{nearest(str(convolution), ('grouped', 'products'))}"
            )
        self.num_stacked = len(networks)
        self.template = copy.deepcopy(networks[0])
        self.template.zero_grad()
        on_cuda = any(parameter.is_cuda for parameter in self.template.parameters())
        if convolution == "products" or (convolution is None and on_cuda):
            use_products(self.template)
        self.parameters = _stacked_parameters([dict(n.named_parameters()) for n in networks])
        stacked = [dict(network.named_buffers()) for network in networks]
        self.buffers = {
            name: torch.stack([each[name].detach() for each in stacked]) for name in stacked[0]
        }
        self._recorded: dict[str, Tensor] | None = None
        self._recorders: list[RemovableHandle] = []

    def _one(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
    ) -> Tensor:
        outputs: Tensor = functional_call(self.template, (parameters, buffers), (inputs,))
        return outputs

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run each network on its own inputs. Shape: (R, batch, ...) to (R, batch, ...).

        Raises:
            ValueError: if the first axis of the inputs does not have length R.
        """
        if inputs.dim() == 0 or len(inputs) != self.num_stacked:
            raise ValueError(
                f"Inputs of shape {tuple(inputs.shape)} do not fit {self.num_stacked} stacked networks:"
                " pass one batch per network along the first axis. To give all networks the same batch:"
                " batch.expand(networks.num_stacked, *batch.shape)."
            )
        # Created for each call: if it were stored, a copy of this object would call the original's template.
        outputs: Tensor = vmap(self._one)(self.parameters, self.buffers, inputs)
        return outputs

    def with_inputs_of(
        self, layers: Sequence[str], inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run each network on its own inputs, and return the inputs of these layers, too.

        Args:
            layers: Names of modules; without any, this is an ordinary call.
            inputs: Shape: (R, batch, …).

        Returns:
            The outputs, and the layers' inputs by name. Shape of each: (R, batch, …).
        """
        recorded = self._recorded
        if not layers and recorded is None:
            return self(inputs), {}

        def one(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]:
            # A hook's tensors cannot leave vmap, except as outputs.
            if recorded is None:
                with recorded_inputs(self.template, layers) as found:
                    outputs = self._one(parameters, buffers, inputs)
                return outputs, found
            outputs, found = self._one(parameters, buffers, inputs), dict(recorded)
            recorded.clear()
            return outputs, found

        outputs: tuple[Tensor, dict[str, Tensor]] = vmap(one)(self.parameters, self.buffers, inputs)
        return outputs

    def always_record(self, layers: Sequence[str]) -> None:
        """Record the inputs of these layers at every call, so that a compiled call records them, too."""
        if self._recorded is None:
            self._recorded = {}
            self._recorders = record_inputs(self.template, layers, self._recorded)

    def part(self, name: str) -> StackedNetworks:
        """Return a submodule of every network as stacked networks of their own, which share the memory.

        Raises:
            AttributeError: if there is no such submodule.
        """
        part = copy.copy(self)
        part.template = self.template.get_submodule(name)
        part.parameters, part.buffers = (
            {
                own.removeprefix(f"{name}."): tensor
                for own, tensor in tensors.items()
                if own.startswith(f"{name}.")
            }
            for tensors in (self.parameters, self.buffers)
        )
        return part

    def train(self, mode: bool = True) -> None:
        """Set all networks to training mode, or to evaluation mode if `mode` is False."""
        self.template.train(mode)

    def in_order_of(self, optimizer: Optimizer, network: nn.Module) -> list[Tensor]:
        """Return the stacked parameters in the order of an optimizer's groups, for a `StackedOptimizer`.

        Args:
            optimizer: Optimizer of `network`'s parameters, in any groups (`parameter_groups` reorders them).
            network: One of the networks that were stacked.

        Raises:
            ValueError: if the optimizer has a parameter that does not belong to the network.
        """
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for position, parameter in enumerate(every):
            if names.get(id(parameter)) not in self.parameters:
                raise ValueError(
                    f"Parameter {position} of the optimizer, of shape {tuple(parameter.shape)}, is not one of"
                    " the network's stacked parameters: pass the network that the optimizer was made for."
                )
        return [self.parameters[names[id(parameter)]] for parameter in every]

    @contextmanager
    def loaded(self, index: int) -> Iterator[nn.Module]:
        """Yield an ordinary network that has the weights and gradients of network `index` inside the block.

        Every call yields the same object, so that no new memory is allocated; to keep a network, use
        `network`.

        Raises:
            IndexError: if the index is out of range.
        """
        require_index(index, self.num_stacked)
        with torch.no_grad():
            for own, stacked in self._pairs():
                own.copy_(stacked[index])
        for name, parameter in self.template.named_parameters():
            gradient = self.parameters[name].grad
            parameter.grad = None if gradient is None else gradient[index]
        try:
            yield self.template
        finally:
            self.template.zero_grad()

    def network(self, index: int) -> nn.Module:
        """Return a new ordinary network with copies of the weights of network `index`.

        Raises:
            IndexError: if the index is out of range.
        """
        with self.loaded(index) as network:
            network.zero_grad()
            made = copy.deepcopy(network)
            for module, recorder in product(made.modules(), self._recorders):
                module._forward_pre_hooks.pop(recorder.id, None)
            use_convolutions(made)
            return made

    def state_dict(self, index: int) -> dict[str, Tensor]:
        """Return copies of the weights and buffers of network `index`, as `network(index).state_dict()`.

        Raises:
            IndexError: if the index is out of range.
        """
        with self.loaded(index) as network:
            return {name: tensor.clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Load the state of an ordinary network, saved on any device, into network `index`.

        Raises:
            IndexError: if the index is out of range.
            RuntimeError: if the state is from another architecture (torch's message).
        """
        with self.loaded(index) as network:
            network.load_state_dict(state)
            for own, stacked in self._pairs():
                stacked[index].copy_(own)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for name, parameter in self.template.named_parameters():
            yield parameter.detach(), self.parameters[name].detach()
        for name, buffer in self.template.named_buffers():
            yield buffer, self.buffers[name]


def require_index(index: int, num_stacked: int) -> None:
    """Raise an IndexError unless a stacked network has this index; negative indices are not accepted.

    Raises:
        IndexError: if the index is out of range.
    """
    if not 0 <= index < num_stacked:
        raise IndexError(
            f"Index {index} is out of range: the {num_stacked} stacked networks have the indices 0 to"
            f" {num_stacked - 1}."
        )


def stacked_gradient_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Compute the L2 norm of each network's gradient over all parameters, without waiting for the device.

    Args:
        gradients: Gradient of each parameter. Shape of each: (R, *shape).

    Returns:
        The norms. Shape: (R,).

    Raises:
        ValueError: if there is no gradient.

    Examples:
        >>> stacked_gradient_norms([torch.tensor([[3.0, 4.0], [0.0, 1.0]])])
        tensor([5., 1.])
    """
    if not gradients:
        raise ValueError("There is no gradient to compute a norm of: call backward first.")
    # A copy and one kernel, instead of one kernel for the norm of each gradient.
    rows = [gradient.detach().reshape(gradient.shape[0], -1) for gradient in gradients]
    norms: Tensor = torch.linalg.vector_norm(
        rows[0] if len(rows) == 1 else torch.cat(rows, 1), dim=1
    )
    return norms


def clip_stacked_gradients_(gradients: Sequence[Tensor], max_norm: float) -> Tensor:
    """Clip the norm of each network's gradient in place, as `nn.utils.clip_grad_norm_` does for one network.

    Args:
        gradients: Gradient of each parameter; changed in place. Shape of each: (R, *shape).
        max_norm: Largest norm, above 0.

    Returns:
        The norms before clipping. Shape: (R,).

    Raises:
        ValueError: if there is no gradient, or `max_norm` is not above 0.

    Examples:
        >>> gradients = [torch.tensor([[3.0, 4.0], [0.0, 1.0]])]
        >>> clip_stacked_gradients_(gradients, max_norm=2.0)
        tensor([5., 1.])
        >>> gradients[0][1]  # below it: unchanged
        tensor([0., 1.])
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, not {max_norm!r}.")
    norms = stacked_gradient_norms(gradients)
    # The same small number as in torch, so that the results agree.
    factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
    return norms


def _stacked_parameters(networks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Copy the networks' parameters into views of one matrix with a row for each network."""
    first = networks[0]
    width = sum(parameter.numel() for parameter in first.values())
    like = next(iter(first.values()), torch.empty(0))
    row = -(-width // _ROW_MULTIPLE) * _ROW_MULTIPLE
    matrix = torch.zeros(len(networks), row, dtype=like.dtype, device=like.device)
    stacked: dict[str, Tensor] = {}
    begin = 0
    for name, parameter in first.items():
        columns = matrix[:, begin : begin + parameter.numel()]
        begin += parameter.numel()
        view = columns.view(len(networks), *parameter.shape)
        for index, network in enumerate(networks):
            view[index].copy_(network[name].detach())
        stacked[name] = view.detach().requires_grad_(parameter.requires_grad)
    return stacked


def _listed(networks: Iterable[nn.Module]) -> list[nn.Module]:
    # A Sequential is iterable, too, and its layers are modules.
    if isinstance(networks, nn.Module):
        raise TypeError(
            f"StackedNetworks needs a list of networks, not one {type(networks).__name__}: make one network"
            " for each run and pass them as a list."
        )
    listed = list(networks)
    for index, network in enumerate(listed):
        if not isinstance(network, nn.Module):
            raise TypeError(f"networks[{index}] must be an nn.Module, not {network!r}.")
    return listed


def _require_one_architecture(networks: Sequence[nn.Module]) -> None:
    if not networks:
        raise ValueError("StackedNetworks needs at least one network, but got an empty list.")
    first = networks[0]
    expected = _form(first)
    for index, network in enumerate(networks):
        form = _form(network)
        if form != expected or type(network) is not type(first) or repr(network) != repr(first):
            differing = [
                name for name in {**expected, **form} if form.get(name) != expected.get(name)
            ]
            difference = (
                f"the parameter or buffer {differing[0]!r} differs"
                if differing
                else "a layer's settings differ"
            )
            raise ValueError(
                f"networks[{index}] has another architecture than networks[0]: {difference}."
                " Only networks of one architecture can be stacked: make one stack per architecture."
            )
    for name, module in first.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(
                f"{name!r} is a dropout layer with p={module.p}, but layers of stacked networks cannot draw"
                " separate random numbers for each network: remove it, or set p=0."
            )
    dtypes = {parameter.dtype for parameter in first.parameters()}
    if len(dtypes) > 1:
        raise ValueError(
            f"The parameters have the dtypes {', '.join(map(str, dtypes))}, but stacked networks need a"
            " single one: convert them, for example with network.float()."
        )


def _form(network: nn.Module) -> dict[str, tuple[object, ...]]:
    """Return shapes and dtypes by name, with shared parameters under each of their names."""
    owners: dict[int, str] = {}
    form: dict[str, tuple[object, ...]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if is_lazy(parameter):
            raise ValueError(f"{name!r} is lazy: run the network on a batch before stacking it.")
        owner = owners.setdefault(id(parameter), name)
        form[name] = (
            parameter.shape,
            parameter.dtype,
            parameter.device,
            parameter.requires_grad,
            owner,
        )
    for name, buffer in network.named_buffers():
        form[name] = (buffer.shape, buffer.dtype, buffer.device)
    return form
