"""Self-contained HTML documents: the style of all pages, and figures that are embedded."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

STYLE = Path(__file__).parent / "page.css"
"""Style of all pages, light and dark, and in print."""


def document(title: str, body: str) -> str:
    """Return a complete HTML document, to be encoded as UTF-8.

    Args:
        title: Title of the window, as plain text.
        body: Contents, as HTML.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
{body}
</body>
</html>
"""


def embedded_figure(png: bytes, description: str, caption: str) -> str:
    """Return a figure whose picture is part of the document.

    Args:
        png: Contents of a PNG file.
        description: What it shows, for those who cannot see it.
        caption: Text below it.
    """
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{escape(description, quote=True)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
