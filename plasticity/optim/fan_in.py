"""Fan-in of parameters, derived from the layout of the layer that they belong to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import parametrize

from plasticity.optim.parameter_names import parameter_names

NORMALIZATION_LAYERS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # every batch and instance normalisation
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
"""Layers whose affine parameters `parameter_groups` does not regularize by default."""

NO_FAN_IN = 0
"""Entry of a group's `fan_in` for a parameter that has none; syre does not decay it."""

Kind = Literal["weight", "rows", "vector", "normalization", "loose", "unknown"]


@dataclass(frozen=True)
class Layout:
    """Kind and fan-in of one parameter of a model."""

    kind: Kind
    """Kind of the parameter. "weight": the units' weights, in a layer whose layout is known. "rows": an
    embedding or tokens. "vector": belongs to the weight of its module. "normalization": belongs to a
    normalisation layer. "loose": a vector whose module has no weight. "unknown": has two or more
    dimensions, and it is not known which one holds the units."""

    fan_in: int
    """Inputs of one unit, at least 1; `NO_FAN_IN` for a loose vector."""

    is_bias: bool
    """Whether the parameter is a vector that its module calls a bias."""


# ---- bare lists -------------------------------------------------------------------------------------


def weight_fan_in(weight: Tensor) -> int | None:
    """Return the number of inputs of one unit by torch's convention: `size(1)` times the receptive field.

    Args:
        weight: Weight of a layer. Shape: (units, inputs, ...); a vector or scalar has no fan-in itself.

    Returns:
        The fan-in, at least 1; None for a tensor of fewer than two dimensions.
    """
    return max(1, math.prod(weight.shape[1:])) if weight.dim() >= 2 else None


def flat_fan_in(parameters: Iterable[Tensor]) -> list[int]:
    """Return the fan-in of each parameter in a flat list, by torch's convention.

    Only the shapes are known here: every weight is counted by torch's convention (see
    `weight_fan_in`), even if it is transposed or belongs to an embedding, and a vector takes the fan-in
    of the weight before it. `parameter_groups(model, …)` knows the layers.

    Returns:
        One number for each parameter; `NO_FAN_IN` for a vector before any weight (a Stable-Baselines3
        policy's `log_std`, say).
    """
    found: list[int] = []
    latest = NO_FAN_IN
    for parameter in parameters:
        latest = weight_fan_in(parameter) or latest
        found.append(latest)
    return found


# ---- models -----------------------------------------------------------------------------------------


def model_layouts(
    model: nn.Module, given: Mapping[nn.Parameter, int] | None = None
) -> dict[nn.Parameter, Layout]:
    """Return the layout of every parameter of a model, by the layer that it belongs to.

    - A weight counts the inputs of one unit: the largest output of the layer without bias, if all
      weights and inputs are 1. For a transposed convolution this differs from torch's convention, which
      takes the output channels for inputs: with stride s and kernel k it is in_channels / groups *
      ceil(k / s) for each axis.
    - A bias takes the fan-in of its own weight (`bias_hh_l0` that of `weight_hh_l0`); another
      vector takes the largest of its module.
    - An embedding, and parameters whose names say that they are tokens or embeddings (`pos_embed`,
      `cls_token`), count the width of a row: the rows of their anchors have norms around sigma, whatever
      the width. This is the initialisation of Flax's `Embed`, of fairseq, and of torch's `bias_k` in
      attention (Xavier's). `nn.Embedding` itself starts at N(0, 1), most transformers at 0.02.
    - The length that `weight_norm` stores separately counts one input: it is about 1 at any width.

    Args:
        model: Any module. A shared parameter takes the layout of its first owner.
        given: Fan-ins that override the derived ones. A vector follows that of its weight.

    Returns:
        Layouts by parameter, in the order of `model.parameters()`.

    Raises:
        ValueError: if a lazy layer has not seen its first batch.
    """
    _require_shapes(model)
    given = {} if given is None else given
    found: dict[nn.Parameter, Layout] = {}
    for module in model.modules():
        for parameter, layout in _module_layouts(module, given):
            found.setdefault(parameter, layout)
    return {parameter: found[parameter] for parameter in model.parameters()}


def _require_shapes(model: nn.Module) -> None:
    for parameter, names in parameter_names(model).items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(  # noqa: TRY004 - the state is wrong, not a type
                f"{names[0]!r} has no shape yet, because its layer is lazy: run one batch through the"
                " model before grouping its parameters."
            )


def _module_layouts(
    module: nn.Module, given: Mapping[nn.Parameter, int]
) -> list[tuple[nn.Parameter, Layout]]:
    """Return the layouts within one module: weights first, then the vectors that belong to them."""
    own = list(_own_tensors(module))
    found: dict[nn.Parameter, Layout] = {}
    weights: dict[str, int] = {}
    for name, parameter, is_length in own:
        layout = _own_layout(module, name, parameter, is_length=is_length)
        if layout is None:
            continue
        if parameter in given:
            kind: Kind = "weight" if layout.kind == "unknown" else layout.kind
            layout = replace(layout, kind=kind, fan_in=given[parameter])
        found[parameter] = layout
        if layout.kind in ("weight", "unknown"):
            weights[name] = layout.fan_in
    widest = max(weights.values(), default=NO_FAN_IN)
    for name, parameter, _ in own:
        if parameter not in found:
            inputs = weights.get(name.replace("bias", "weight"), widest)
            inputs = given.get(parameter, inputs)
            kind = "loose" if inputs == NO_FAN_IN else "vector"
            found[parameter] = Layout(kind, inputs, is_bias="bias" in name.split("_"))
    return list(found.items())


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Yield a module's own parameters, by the names that its `forward` uses for them.

    Yields:
        The name, the parameter, and whether it is the length of a weight norm.
    """
    # nn.utils.weight_norm (the hook) keeps "weight_g" and "weight_v"; spectral_norm and prune keep
    # "weight_orig".
    hooks = module._forward_pre_hooks.values()
    stems = {getattr(hook, "name", "") for hook in hooks if type(hook).__name__ == "WeightNorm"}
    for name, parameter in module.named_parameters(recurse=False):
        stem, _, end = name.rpartition("_")
        is_normed = stem in stems and end in ("g", "v")
        whole = stem if is_normed or (stem and end == "orig") else name
        yield whole, parameter, is_normed and end == "g"
    if not parametrize.is_parametrized(module):
        return
    assert isinstance(module.parametrizations, nn.ModuleDict)
    for name, originals in module.parametrizations.items():
        assert isinstance(originals, parametrize.ParametrizationList)
        is_normed = type(originals[0]).__name__ == "_WeightNorm"
        for original, parameter in originals.named_parameters(recurse=False):
            # Other factors do not have the layout of the layer's weight.
            whole = name if is_normed or original == "original" else f"{name}_{original}"
            yield whole, parameter, is_normed and original == "original0"


def _own_layout(
    module: nn.Module, name: str, parameter: nn.Parameter, *, is_length: bool
) -> Layout | None:
    """Return the layout of a parameter that depends on no other one; None for the rest, all vectors."""
    if isinstance(module, NORMALIZATION_LAYERS):
        return Layout("normalization", 1, is_bias=name == "bias")
    if is_length:
        return Layout("vector", 1, is_bias=False)
    if _has_rows(module, name, parameter):
        return Layout("rows", max(1, parameter.shape[-1]), is_bias=False)
    inputs = _layer_inputs(module, name, parameter)
    if inputs is not None:
        return Layout("weight", max(1, inputs), is_bias=False)
    guess = _guessed_inputs(parameter)
    return None if guess is None else Layout("unknown", guess, is_bias=False)


def _guessed_inputs(parameter: nn.Parameter) -> int | None:
    """Return the inputs of a unit where only the shape is known; None for vectors."""
    if parameter.dim() <= 2:
        return weight_fan_in(parameter)
    if max(parameter.shape) == parameter.numel():
        return None  # shaped to be broadcast: a layer scale
    # A tensor broadcast over the batch is not the weight of a layer: its rows are taken for inputs.
    return parameter.shape[-1] if parameter.shape[0] == 1 else weight_fan_in(parameter)


_ROW_WORDS = {
    *("token", "tokens", "cls", "latent", "latents", "prompt", "prompts", "register", "registers"),
    *("emb", "embed", "embeds", "embedding", "embeddings"),
    *("pos", "position", "positions", "positional"),
}


def _has_rows(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is an embedding or tokens, by its layer, or else by its name."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return name == "weight"
    if isinstance(module, nn.MultiheadAttention):
        return name in ("bias_k", "bias_v")  # one more key and value, like tokens
    if parameter.dim() == 0 or _layer_inputs(module, name, parameter) is not None:
        return False
    words = re.split(r"[_\d]+", name.lower().strip("_0123456789"))
    # Among vectors, "class_embedding" is an embedding and "embedding_scale" is not.
    return not _ROW_WORDS.isdisjoint(words[-1:] if parameter.dim() == 1 else words)


def _layer_inputs(module: nn.Module, name: str, weight: nn.Parameter) -> int | None:
    """Return the inputs of one unit, if the layer's layout is known and this is its weight; else None."""
    if weight.dim() < 2:
        return None
    if name == "weight":
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return _transposed_convolution_inputs(module)
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear)):
            return weight_fan_in(weight)
        if _is_transposed_linear(module):
            return weight.shape[0]
    is_attention = isinstance(module, nn.MultiheadAttention) and name.endswith("proj_weight")
    is_recurrent = isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and name.startswith("weight_")
    if is_attention or is_recurrent:
        return weight.shape[1]
    return _stated_inputs(module, weight)


def _transposed_convolution_inputs(module: nn.modules.conv._ConvTransposeNd) -> int:
    """Return the number of inputs of the output unit that has the most."""
    # Tap j of an axis reaches position p if dilation * j = p modulo the stride: so does every
    # (stride / gcd)-th tap.
    inputs = module.in_channels // module.groups
    for taps, stride, dilation in zip(
        module.kernel_size, module.stride, module.dilation, strict=True
    ):
        inputs *= math.ceil(taps / (stride // math.gcd(stride, dilation)))
    return inputs


# Linear layers with a weight of shape (inputs, units), by package. Looked up by name, so that their
# packages need not be imported.
_TRANSPOSED = {
    (package, "Conv1D")
    for package in ("transformers", "pytorch_transformers", "pytorch_pretrained_bert")
}


def _is_transposed_linear(module: nn.Module) -> bool:
    return any(
        (base.__module__.partition(".")[0], base.__name__) in _TRANSPOSED
        for base in type(module).__mro__
    )


_STATED_SIZES = (
    ("in_features", "out_features"),
    ("in_channels", "out_channels"),
    ("input_size", "output_size"),
    ("nx", "nf"),
)


def _stated_inputs(module: nn.Module, weight: nn.Parameter) -> int | None:
    """Return the inputs of a matrix whose module has attributes for its inputs and units; else None."""
    for names in _STATED_SIZES:
        inputs, units = (getattr(module, name, None) for name in names)
        if not isinstance(inputs, int) or not isinstance(units, int):
            continue
        if tuple(weight.shape) in ((units, inputs), (inputs, units)):
            return inputs
    return None
