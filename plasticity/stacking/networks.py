"""Many networks of one architecture as one: parameters stacked along a leading axis of replicas.

A small network leaves most of a GPU idle, and a loop over such networks waits for the launches of
their kernels. Stacked, R networks cost the launches of one. Replica i computes what its network alone
would, and nothing of one reaches another: not even a NaN.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from plasticity.checks import nearest
from plasticity.stacking.convolution import use_convolutions, use_products

_ROW_MULTIPLE = 32
"""Elements that a replica's row of parameters is rounded up to, so that every row begins aligned."""


class StackedNetworks:
    """R networks of one architecture as one.

    ::

        replicas = StackedNetworks([make_network(seed) for seed in range(32)])
        logits = replicas(images)  # (32, batch, 1, 28, 28) to (32, batch, 10)

    Buffers (running statistics) are stacked as the parameters are. All parameters lie in one block of
    memory, a row a replica, which `StackedOptimizer` steps with one kernel per operation.

    Args:
        networks: R of them, on one device, of one architecture: equal modules with equal settings,
            which is checked as far as their printed form tells. Their weights are copied.
        convolution: Two-dimensional convolutions as one with a group for each replica, or as products
            of matrices (`plasticity.stacking.convolution`). None: "products" on CUDA, where this is
            reasoned and not measured; else "grouped".

    Raises:
        TypeError: if these are not several networks.
        ValueError: if there is none, their architectures differ, a parameter is lazy or shared in
            another way than in the first, parameters have several dtypes, or a layer draws random
            numbers (dropout).
    """

    num_stacked: int
    """R."""

    parameters: dict[str, Tensor]
    """By the names that the networks give them; leaves that take gradients. Shape of each: (R, *shape)."""

    buffers: dict[str, Tensor]
    """By name, as the parameters. Shape of each: (R, *shape)."""

    template: nn.Module
    """One network that gives the code of `forward`; the weights in it are of no meaning."""

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

    def _one(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
    ) -> Tensor:
        outputs: Tensor = functional_call(self.template, (parameters, buffers), (inputs,))
        return outputs

    def __call__(self, inputs: Tensor) -> Tensor:
        """Every replica's output for its own inputs. Shape: (R, batch, ...) to (R, batch, ...).

        Raises:
            ValueError: if the inputs are of another number of replicas.
        """
        if inputs.dim() == 0 or len(inputs) != self.num_stacked:
            raise ValueError(
                f"Inputs of shape {tuple(inputs.shape)} were given to {self.num_stacked} replicas: give"
                " a batch for each, first axis. One that all see:"
                " batch.expand(replicas.num_stacked, *batch.shape)."
            )
        # Made here, not kept: a copy of these replicas would otherwise call this one's template.
        outputs: Tensor = vmap(self._one)(self.parameters, self.buffers, inputs)
        return outputs

    def train(self, mode: bool = True) -> None:
        """Set the training mode of all replicas (False: evaluation)."""
        self.template.train(mode)

    def in_order_of(self, optimizer: Optimizer, network: nn.Module) -> list[Tensor]:
        """The stacked parameters as `StackedOptimizer` takes them: in the order of an optimizer's groups.

        Args:
            optimizer: Over `network`'s parameters, in any groups (`parameter_groups` reorders them).
            network: One of those that were stacked.

        Raises:
            ValueError: if the optimizer has a parameter that is not the network's.
        """
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for place, parameter in enumerate(every):
            if names.get(id(parameter)) not in self.parameters:
                raise ValueError(
                    f"Parameter {place} of the optimizer, of shape {tuple(parameter.shape)}, is none of the"
                    " network's that were stacked: give the network that the optimizer was made for."
                )
        return [self.parameters[names[id(parameter)]] for parameter in every]

    @contextmanager
    def loaded(self, index: int) -> Iterator[nn.Module]:
        """One ordinary network with replica `index`'s weights and gradients, inside the block.

        It is one and the same object at every call, so that no memory is taken anew; to keep a
        network, take `network`.

        Raises:
            IndexError: if there is no such replica.
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
        """A new ordinary network with copies of replica `index`'s weights.

        Raises:
            IndexError: if there is no such replica.
        """
        with self.loaded(index) as network:
            network.zero_grad()
            made = copy.deepcopy(network)
            use_convolutions(made)
            return made

    def state_dict(self, index: int) -> dict[str, Tensor]:
        """What `network(index).state_dict()` gives: copies, in the ordinary format.

        Raises:
            IndexError: if there is no such replica.
        """
        with self.loaded(index) as network:
            return {name: tensor.clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Give replica `index` the weights and buffers of one ordinary network, saved on any device.

        Raises:
            IndexError: if there is no such replica.
            RuntimeError: if the state is of another architecture (torch's message).
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
    """Refuse an index that no replica has; there is no counting from the end.

    Raises:
        IndexError: if it is out of range.
    """
    if not 0 <= index < num_stacked:
        raise IndexError(f"There is no replica {index}: there are 0 to {num_stacked - 1}.")


def stacked_gradient_norms(gradients: Sequence[Tensor]) -> Tensor:
    """L2 norm of each replica's gradient over all parameters. Does not wait for the device.

    Args:
        gradients: One for each parameter. Shape of each: (R, *shape).

    Returns:
        Shape: (R,).

    Raises:
        ValueError: if there is no gradient.
    """
    if not gradients:
        raise ValueError("There is no gradient to take a norm of: call backward first.")
    # One kernel after one copy, where a norm of each gradient would be a kernel for each.
    rows = [gradient.detach().reshape(gradient.shape[0], -1) for gradient in gradients]
    norms: Tensor = torch.linalg.vector_norm(
        rows[0] if len(rows) == 1 else torch.cat(rows, 1), dim=1
    )
    return norms


def clip_stacked_gradients_(gradients: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale each replica's gradient down to a norm, in place, as `nn.utils.clip_grad_norm_` does one.

    Args:
        gradients: One for each parameter; changed. Shape of each: (R, *shape).
        max_norm: Largest norm, above 0.

    Returns:
        The norms before. Shape: (R,).

    Raises:
        ValueError: if there is no gradient, or `max_norm` is not above 0.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, not {max_norm!r}.")
    norms = stacked_gradient_norms(gradients)
    # The same small number as torch's, so that the two agree.
    factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
    return norms


def _stacked_parameters(networks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of the networks' parameters, as views of one matrix with a row for each replica."""
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
        for place, network in enumerate(networks):
            view[place].copy_(network[name].detach())
        stacked[name] = view.detach().requires_grad_(parameter.requires_grad)
    return stacked


def _listed(networks: Iterable[nn.Module]) -> list[nn.Module]:
    # A Sequential is iterable too, and its layers are modules.
    if isinstance(networks, nn.Module):
        raise TypeError(
            f"StackedNetworks needs a list of networks, not one {type(networks).__name__}: make one for each."
        )
    listed = list(networks)
    for index, network in enumerate(listed):
        if not isinstance(network, nn.Module):
            raise TypeError(f"networks[{index}] must be an nn.Module, not {network!r}.")
    return listed


def _require_one_architecture(networks: Sequence[nn.Module]) -> None:
    if not networks:
        raise ValueError("StackedNetworks needs at least one network: an empty list was given.")
    first = networks[0]
    expected = _form(first)
    for index, network in enumerate(networks):
        form = _form(network)
        if form != expected or type(network) is not type(first) or repr(network) != repr(first):
            differing = [
                name for name in {**expected, **form} if form.get(name) != expected.get(name)
            ]
            place = f"parameter or buffer {differing[0]!r}" if differing else "a layer's settings"
            raise ValueError(
                f"networks[{index}] is of another architecture than networks[0]: {place} differs."
                " Only networks of one architecture can be stacked: make a stack for each."
            )
    for name, module in first.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(
                f"{name!r} is a dropout with p={module.p}: replicas have no random streams of their"
                " own inside a network. Take it out, or set p=0."
            )
    dtypes = {parameter.dtype for parameter in first.parameters()}
    if len(dtypes) > 1:
        raise ValueError(
            f"The parameters have the dtypes {', '.join(map(str, dtypes))}: stacked, they need one."
        )


def _form(network: nn.Module) -> dict[str, tuple[object, ...]]:
    """Shapes and dtypes by name, shared parameters under every name that they have."""
    owners: dict[int, str] = {}
    form: dict[str, tuple[object, ...]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if is_lazy(parameter):
            raise ValueError(f"{name!r} is lazy: call the network on a batch before it is stacked.")
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
