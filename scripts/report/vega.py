"""Vega-Lite, the plotting library of the page: one JavaScript file, which is part of this package.

Nobody who reports needs another package, or a network. ``make vega`` makes the file again, with the versions
that `constraints.txt` pins through vl-convert-python.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "vega.min.js"
"""File with Vega, Vega-Lite and vega-embed, as one script that defines `vegaEmbed`."""

NOTICES = Path(__file__).parent / "vega.LICENSES"
"""Licences of what is in it, which have to be where it is: on every page, too."""


@cache
def bundle() -> str:
    """Return the script with its licences, to be embedded in a page."""
    notices = NOTICES.read_text(encoding="utf-8")
    return f"/*\n{notices}*/\n{FILE.read_text(encoding='utf-8')}"


def made_anew() -> str:
    """Return what the file has to contain, from the installed vl-convert-python."""
    import vl_convert  # noqa: PLC0415  (of developers only)

    versions = (
        f"Vega {vl_convert.get_vega_version()}, Vega-Lite {vl_convert.get_vegalite_versions()[-1]},"
        f" vega-embed {vl_convert.get_vega_embed_version()}"
    )
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return f"/* {versions}: made by `make vega`. */\n(() => {{\n{script}\n}})();\n"


if __name__ == "__main__":
    FILE.write_text(made_anew(), encoding="utf-8")
