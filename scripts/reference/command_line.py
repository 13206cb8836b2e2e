"""Page of the command line: each command's help, as its parser prints it."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

from plasticity.checks import require_known
from plasticity.scripts.config.options import CommandOptions
from plasticity.scripts.main import COMMANDS, EXTRAS, main
from plasticity.scripts.reference.fields import fields_table

WIDTH = 96
"""Width of the help texts, in characters."""


def command_line_page() -> str:
    """Return the page in Markdown: a section for each command."""
    parts = [
        "# Command line",
        "`plasticity COMMAND --help` prints what is on this page, for the version that is installed.",
    ]
    for name, description in COMMANDS.items():
        parts += [f"## plasticity {name}", f"{description[0].upper()}{description[1:]}."]
        parts += _training_options(name) if name in EXTRAS else [f"```text\n{help_text(name)}\n```"]
    return "\n\n".join(parts) + "\n"


def help_text(command: str) -> str:
    """Return what `plasticity COMMAND --help` prints.

    Raises:
        ValueError: if there is no such command.
    """
    require_known("command", command, COMMANDS)
    printed = io.StringIO()
    with _columns(WIDTH), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return printed.getvalue().strip()


def _training_options(name: str) -> list[str]:
    """Return the options of a command that trains, without the thousand settings of what it trains."""
    extra = EXTRAS[name]
    own = () if extra is None else tuple(type(extra).__dataclass_fields__)
    parts = [
        f"```text\nplasticity {name} BENCHMARK [OPTIONS] [SETTINGS] [--config FILE] [--import MODULE …]\n```"
    ]
    if own:
        parts.append(fields_table(type(extra), options=True))
    if name == "run":
        parts.append(fields_table(CommandOptions, options=True, required="the benchmark's"))
    else:
        parts.append("Its other options are those of [`plasticity run`](#plasticity-run).")
    parts.append(
        "Every [setting](settings.md) of the benchmark is an option too, under its own name"
        " (`--num-tasks 10`), a mitigation's below the mitigation's name (`--syre.sigma 0.3`)."
        f" `plasticity {name} BENCHMARK --help` prints them with the benchmark's defaults."
    )
    return parts


@contextlib.contextmanager
def _columns(width: int) -> Iterator[None]:
    """Let help texts have this width inside the block."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
