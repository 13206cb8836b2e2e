"""Blocks of code in a page of the documentation, and what a comment above each says about running it.

A comment above a block is not shown on the site:

    <!-- needs: lightning -->
    <!-- small: "steps=400" -> "steps=5", "--tasks 30" -> "--tasks 2" -->

The first names modules that the block imports from an extra, the second replacements that make it small
enough for a test. A block whose first line is `# my_module.py` is that file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!-- (\w+): (.*?) -->\n", re.DOTALL)
_REPLACEMENT = re.compile(r'"([^"]+)" -> "([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class Text:
    """Prose between two blocks of code."""

    markdown: str
    """The prose, without the comments about the block that follows it."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Block of code."""

    language: str
    """Language after the fence: "python", "bash", …"""

    code: str
    """The code, ending with a line break."""

    small: Mapping[str, str]
    """Replacements that make it small enough for a test."""

    needs: tuple[str, ...]
    """Modules that it imports from an extra."""

    @property
    def file(self) -> str | None:
        """Name of the file that the block is, from its first line; None if it is none."""
        found = re.match(r"# ([\w./-]+\.\w+)\n", self.code)
        return found[1] if found else None

    def smaller(self) -> str:
        """Return the code with its replacements.

        Raises:
            ValueError: if the code does not have what is to be replaced.
        """
        code = self.code
        for large, small in self.small.items():
            if large not in code:
                raise ValueError(
                    f"The comment above a block replaces {large!r}, which the block does not have: correct"
                    f" the comment. The block begins with {code.splitlines()[0]!r}."
                )
            code = code.replace(large, small)
        return code


def parts_of(page: str) -> list[Text | Block]:
    """Return the prose and the blocks of a page, in their order.

    Args:
        page: The page in Markdown.

    Raises:
        ValueError: if a comment with a name is neither `needs` nor `small`, or stands above no block.
    """
    parts: list[Text | Block] = []
    end = 0
    for fence in _FENCE.finditer(page):
        prose, comments = _without_comments(page[end : fence.start()])
        parts += [Text(markdown=prose)] if prose.strip() else []
        parts.append(_block(fence[1], fence[2], comments))
        end = fence.end()
    prose, comments = _without_comments(page[end:])
    if comments:
        raise ValueError(
            f"The comment {comments[-1][0]!r} stands above no block of code: remove it."
        )
    return parts + ([Text(markdown=prose)] if prose.strip() else [])


def blocks_of(page: str, language: str) -> list[Block]:
    """Return the blocks of one language.

    Args:
        page: The page in Markdown.
        language: Language after the fence.

    Raises:
        ValueError: if a comment about a block is wrong.
    """
    return [
        each for each in parts_of(page) if isinstance(each, Block) and each.language == language
    ]


def _without_comments(text: str) -> tuple[str, list[tuple[str, str]]]:
    return _COMMENT.sub("", text), _COMMENT.findall(text)


def _block(language: str, code: str, comments: Sequence[tuple[str, str]]) -> Block:
    small: dict[str, str] = {}
    needs: list[str] = []
    for name, content in comments:
        if name == "needs":
            needs += content.replace(",", " ").split()
        elif name == "small":
            small.update(_REPLACEMENT.findall(content))
        else:
            raise ValueError(
                f"The comment <!-- {name}: … --> must be `needs` or `small`: {content!r}."
            )
    return Block(language=language, code=code, small=small, needs=tuple(needs))
