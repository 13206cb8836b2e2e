"""Command `plasticity push`: a run to the Hugging Face Hub, with its model card."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.share.card import CARD, CardConfig, card, the_run

FILES = (
    CARD,
    "*.png",
    "config.json",
    "metrics.jsonl",
    "episodes.jsonl",
    "timings.jsonl",
    "checkpoint.pt",
    "tensorboard/*",
)
"""Files of a run that are uploaded."""


@dataclass(frozen=True)
class PushConfig:
    """Upload a run to the Hugging Face Hub: rows, configuration, checkpoint, and its model card.

    Log in first (`hf auth login`, or the variable HF_TOKEN). Without a card, one is written as by `plasticity
    card`.
    """

    run: tyro.conf.Positional[Path]
    """Folder of one run: OUT/BENCHMARK/METHOD/seed_N."""

    to: str
    """Repository on the Hub, USER/NAME; created if it does not exist."""

    private: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Make a new repository private."""

    def __post_init__(self) -> None:
        owner, _, name = self.to.partition("/")
        if not owner or not name or "/" in name:
            raise ValueError(f"--to {self.to!r} must be a repository on the Hub: USER/NAME.")


def push(config: PushConfig) -> str:
    """Upload a run, and print where it is.

    Returns:
        Address of the repository.

    Raises:
        ValueError: if the folder is not that of one run, or the Hub's library is not installed.
        RunError: if the Hub cannot be reached, or refuses.
    """
    hub = _hub()
    run = the_run(config.run)
    if not (run.path / CARD).exists():
        card(CardConfig(config.run))
    interface = hub.HfApi()
    try:
        interface.create_repo(config.to, private=config.private, exist_ok=True)
        interface.upload_folder(
            repo_id=config.to,
            folder_path=run.path,
            allow_patterns=list(FILES),
            commit_message=f"{run.method} on {run.benchmark}, seed {run.seed}",
        )
    except ValueError:  # a name that the Hub does not allow
        raise
    except Exception as error:  # of the Hub, of the disk, or of the HTTP library, which has changed
        raise RunError(
            f"The Hub did not take {run.path} ({error}): log in with `hf auth login`, see that you may write"
            f" to {config.to}, and run the same command again."
        ) from error
    address = f"https://huggingface.co/{config.to}"
    print(f"Uploaded: {address}")
    return address


def _hub() -> Any:
    try:
        importlib.import_module("huggingface_hub.errors")
        return importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise ValueError(
            "plasticity push needs the Hub's library: pip install 'plasticity[hub]'."
        ) from error
