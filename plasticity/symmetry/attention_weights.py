"""Query and key matrices of a transformer in a state dictionary, without the code of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["query_key_weights"]

FUSED = re.compile(r"(.*\.|^)(?:in_proj_weight|qkv\.weight)$")
"""Names of matrices that hold queries, keys and values: torch's attention (torchvision), timm."""

QUERY = re.compile(r"(.*\.|^)(query|q_proj|q|query_proj|q_lin)\.weight$")
"""Names of query matrices: Hugging Face's ViT, DeiT and BERT; CLIP, DINOv2 and most others; T5; …"""

KEYS = {
    "query": "key",
    "q_proj": "k_proj",
    "q": "k",
    "query_proj": "key_proj",
    "q_lin": "k_lin",
}
"""Names of the key matrices, by those of the query matrices."""


def query_key_weights(state: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the query and key matrices of each attention, in the order of the state.

    Args:
        state: State dictionary; the names that it may have are those of torch's own attention, torchvision,
            timm and Hugging Face, with any prefix.

    Returns:
        W_Q and W_K by the name of the attention module ("" if the state is that of one). Shape of each:
        (heads · head_dim, width).

    Raises:
        ValueError: if there is no attention, a key matrix is missing, or a fused matrix cannot be split.

    Examples:
        >>> state = nn.MultiheadAttention(8, num_heads=2).state_dict()
        >>> [tuple(weight.shape) for weight in query_key_weights(state)[""]]
        [(8, 8), (8, 8)]
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, weight in state.items():
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            continue
        if fused := FUSED.match(name):
            rows, width = weight.shape
            if rows % 3:
                raise ValueError(
                    f"{name!r} has shape {(rows, width)}, which are not queries, keys and values of equal"
                    " size: split it into matrices of their own."
                )
            query, key, _ = torch.split(weight, rows // 3)
            found[fused[1].rstrip(".")] = query, key
        elif separate := QUERY.match(name):
            other = f"{separate[1]}{KEYS[separate[2]]}.weight"
            if other not in state:
                raise ValueError(f"The state has the queries {name!r} without the keys {other!r}.")
            found[separate[1].rstrip(".")] = weight, state[other]
    if not found:
        names = ", ".join(list(state)[:3]) or "none"
        raise ValueError(
            "The state has no attention with names as in torchvision, timm or Hugging Face (its first names:"
            f" {names}): give the state_dict() of a transformer."
        )
    return found
