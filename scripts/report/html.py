"""Self-contained HTML documents: the style of all pages, and figures that are embedded."""

from __future__ import annotations

import base64
from html import escape

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #1b1b1b;
  background: #fff; max-width: 1120px; margin: 2rem auto 4rem; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .6rem; border-bottom: 2px solid #0072B2;
  padding-bottom: .2rem; }
h3 { font-size: 1.08rem; margin: 2rem 0 .5rem; }
.lead { color: #555; margin: 0 0 1rem; }
.scroll { overflow-x: auto; margin: .4rem 0 1.4rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid #e2e2e2;
  vertical-align: top; white-space: nowrap; }
thead th { border-bottom: 1.5px solid #444; font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 600; }
small { display: block; color: #5c5c5c; font-weight: 400; font-size: .84em; }
.settings th, .settings td { text-align: left; white-space: normal; }
.settings td { overflow-wrap: anywhere; }
figure { margin: 1.2rem 0 2rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #444; font-size: .92rem; margin-top: .3rem; }
ul.notes { background: #FFF7E0; border-left: 4px solid #E69F00; margin: 1rem 0;
  padding: .6rem 1rem .6rem 2rem; font-size: .93rem; }
pre { background: #f4f4f4; padding: .7rem 1rem; overflow-x: auto; font-size: .87rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
@media print { body { max-width: none; margin: 0; font-size: 11px; } figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; } }
"""


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
<style>{_STYLE}</style>
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
