"""Seeds as they are typed: numbers, and ranges of them (`0..31`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

MAX_SEEDS_OF_RANGE = 100_000
"""Largest number of seeds in one range; more are taken for a typing error, as each is a run."""


def seeds_from_words(words: Sequence[str]) -> tuple[int, ...]:
    """Read seeds: `0..3 7` are 0, 1, 2, 3 and 7.

    Args:
        words: Integers, and ranges FIRST..LAST with both ends counted.

    Returns:
        The seeds, in the order given, repeated ones included.

    Raises:
        ValueError: if a word is neither; if a range runs backward, or is of more than
            `MAX_SEEDS_OF_RANGE` seeds.
    """
    return tuple(seed for word in words for seed in _seeds_of(word))


def _seeds_of(word: str) -> Sequence[int]:
    if re.fullmatch(r"[+-]?\d+", word):
        return (int(word),)  # a negative one is refused with every other setting of a run
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", word)
    if ends is None:
        raise ValueError(
            f"{word!r}: give whole numbers, and ranges FIRST..LAST with both ends counted:"
            " --seeds 0..31, --seeds 0..3 7."
        )
    first, last = int(ends[1]), int(ends[2])
    if first > last:
        raise ValueError(f"{word} runs backward: give the smaller end first, {last}..{first}.")
    if last - first >= MAX_SEEDS_OF_RANGE:
        raise ValueError(
            f"{word} are {last - first + 1} runs for each method: give at most"
            f" {MAX_SEEDS_OF_RANGE} in one range."
        )
    return range(first, last + 1)


def words_from_seeds(seeds: Sequence[int]) -> list[str]:
    """Return the words to type for these seeds, one each; for help texts."""
    return [str(seed) for seed in seeds]


def _is_seeds(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, int) for each in value)


Seeds = Annotated[
    tuple[int, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[SEED|FIRST..LAST [SEED|FIRST..LAST ...]]",
        instance_from_str=seeds_from_words,
        is_instance=_is_seeds,
        str_from_instance=words_from_seeds,
    ),
]
"""Type of a field of seeds, for which the command line also accepts ranges."""
