"""How many inputs a parameter has, by the layout of the layer that it belongs to."""

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
"""Layers whose affine parameters `parameter_groups` leaves alone unless asked."""

NO_FAN_IN = 0
"""Stands in a group's `fan_in` for a parameter that has none, so that syre leaves it alone."""

Kind = Literal["weight", "rows", "vector", "normalization", "loose", "unknown"]


@dataclass(frozen=True)
class Layout:
    """What one parameter of a model is, and how many inputs it has."""

    kind: Kind
    """"weight": the units' weights, in a layer whose layout is known. "rows": an embedding or tokens.
    "vector": belongs to the weight of its module. "normalization". "loose": a vector whose module has
    no weight. "unknown": has two or more dimensions, and nothing says which one holds the units."""

    fan_in: int
    """At least 1; `NO_FAN_IN` for a loose vector."""

    is_bias: bool
    """Whether it is a vector that its module calls a bias."""


# ---- bare lists -------------------------------------------------------------------------------------


def weight_fan_in(weight: Tensor) -> int | None:
    """Return the inputs of one unit by torch's convention: `size(1)` times the receptive field.

    Args:
        weight: Shape: (units, inputs, ...); a vector or scalar has no fan-in of its own.

    Returns:
        The fan-in, at least 1; None for a tensor of fewer than two dimensions.
    """
    return max(1, math.prod(weight.shape[1:])) if weight.dim() >= 2 else None


def flat_fan_in(parameters: Iterable[Tensor]) -> list[int]:
    """Return the fan-in of each parameter in a flat list, by convention.

    Nothing but shapes is known here: every weight counts as torch's convention has it (see
    `weight_fan_in`), also one that is transposed or an embedding's, and a vector takes the fan-in
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
      weights and inputs are 1. For a transposed convolution that is not torch's convention, which
      takes its output channels for inputs: with stride s and kernel k it is in_channels / groups *
      ceil(k / s) for each axis.
    - A bias takes the fan-in of its own weight (`bias_hh_l0` that of `weight_hh_l0`); another
      vector takes the largest of its module.
    - An embedding, and parameters that are tokens or embeddings by their names (`pos_embed`,
      `cls_token`), count the width of a row: their anchor's rows have norms around sigma, whatever
      the width. This is the initialisation of Flax's `Embed`, of fairseq, and of torch's `bias_k` in
      attention (Xavier's). `nn.Embedding` itself starts at N(0, 1), most transformers at 0.02.
    - The length that `weight_norm` keeps apart counts one input: it is about 1 at any width.

    Args:
        model: Any module. A shared parameter counts as its first owner's.
        given: Fan-ins that are known better. A vector follows the one of its weight.

    Returns:
        In the order of `model.parameters()`.

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
            raise ValueError(  # noqa: TRY004  (of the model's state)
                f"{names[0]!r} has no shape yet, as its layer is lazy: run one batch through the"
                " model before its parameters are grouped."
            )


def _module_layouts(
    module: nn.Module, given: Mapping[nn.Parameter, int]
) -> list[tuple[nn.Parameter, Layout]]:
    """Layouts within one module: weights first, then the vectors that belong to them."""
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
    """Yield a module's own parameters, by the names that its `forward` has for them.

    Beside the name and the parameter: whether it is the length of a weight norm.
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
        for place, parameter in originals.named_parameters(recurse=False):
            # Factors of another kind are no weights of the layer's own layout.
            whole = name if is_normed or place == "original" else f"{name}_{place}"
            yield whole, parameter, is_normed and place == "original0"


def _own_layout(
    module: nn.Module, name: str, parameter: nn.Parameter, *, is_length: bool
) -> Layout | None:
    """Layout of a parameter that needs no other to tell it; None for the rest, which are vectors."""
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
    """Inputs of a unit where nothing is known but the shape; None of vectors."""
    if parameter.dim() <= 2:
        return weight_fan_in(parameter)
    if max(parameter.shape) == parameter.numel():
        return None  # shaped to be broadcast: a layer scale
    # What is broadcast over the batch is no layer's weight: its rows are taken for inputs.
    return parameter.shape[-1] if parameter.shape[0] == 1 else weight_fan_in(parameter)


_ROW_WORDS = {
    *("token", "tokens", "cls", "latent", "latents", "prompt", "prompts", "register", "registers"),
    *("emb", "embed", "embeds", "embedding", "embeddings"),
    *("pos", "position", "positions", "positional"),
}


def _has_rows(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is an embedding, or tokens: by its layer, or by its name where it has none."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return name == "weight"
    if isinstance(module, nn.MultiheadAttention):
        return name in ("bias_k", "bias_v")  # one more key and value, as tokens are
    if parameter.dim() == 0 or _layer_inputs(module, name, parameter) is not None:
        return False
    words = re.split(r"[_\d]+", name.lower().strip("_0123456789"))
    # Of vectors, "class_embedding" is one and "embedding_scale" is none.
    return not _ROW_WORDS.isdisjoint(words[-1:] if parameter.dim() == 1 else words)


def _layer_inputs(module: nn.Module, name: str, weight: nn.Parameter) -> int | None:
    """Inputs of one unit of a layer whose layout is known; None of another's, or of no weight."""
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
    """Inputs of the output unit that has most of them."""
    # Tap j of an axis reaches position p if dilation * j = p modulo the stride: so does every
    # (stride / gcd)-th tap.
    inputs = module.in_channels // module.groups
    for taps, stride, dilation in zip(
        module.kernel_size, module.stride, module.dilation, strict=True
    ):
        inputs *= math.ceil(taps / (stride // math.gcd(stride, dilation)))
    return inputs


# Linear layers with a weight (inputs, units), by the packages that they came in. Looked up by name:
# whoever has such a layer has imported its package, and others need not.
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
    """Inputs of a matrix whose module says how many inputs and units it has."""
    for names in _STATED_SIZES:
        inputs, units = (getattr(module, name, None) for name in names)
        if not isinstance(inputs, int) or not isinstance(units, int):
            continue
        if tuple(weight.shape) in ((units, inputs), (inputs, units)):
            return inputs
    return None
