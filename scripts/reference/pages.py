"""All generated pages of the documentation site, by their path in it."""

from __future__ import annotations

from plasticity.scripts.reference.command_line import command_line_page
from plasticity.scripts.reference.interface import interface_pages
from plasticity.scripts.reference.settings import settings_page


def reference_pages() -> dict[str, str]:
    """Return the pages in Markdown, by path: `reference/command-line.md` and so on."""
    pages = {"command-line.md": command_line_page(), "settings.md": settings_page()}
    pages |= {f"interface/{name}": text for name, text in interface_pages().items()}
    return {f"reference/{name}": text for name, text in pages.items()}
