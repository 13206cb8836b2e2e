"""Code in the pages: every block of Python runs, in the order of its page, with warnings as errors."""

import re
import shlex
from pathlib import Path

import matplotlib.pyplot
import pytest
import torch

from plasticity.mitigations import MITIGATIONS
from plasticity.scripts.main import COMMANDS
from plasticity.scripts.reference.blocks import blocks_of
from plasticity.scripts.reference.run_page import run_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ALL = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [
    page
    for page in ALL
    if blocks_of(page.read_text(), "python")
    and not page.stem.startswith("own-")  # modules, which test_own_modules.py runs
    and page.name != "examples.md"  # files of the folder examples/, which have tests of their own
]
SHELL = [page for page in ALL if blocks_of(page.read_text(), "bash")]


@pytest.fixture(autouse=True)
def one_thread_and_no_window(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")  # Lightning's own
@pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:The `srun` command is available")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_code_of_a_page_runs(page, tmp_path, capsys):
    text = page.read_text()
    for block in blocks_of(text, "python"):
        for module in block.needs:
            pytest.importorskip(module, reason=f"{page.name} needs {module}")
    is_run = page.parent.name == "start"  # elsewhere, commands take hours
    names = run_page(text, tmp_path, small=True, commands=is_run)
    assert len(names) > 1
    pictures = re.findall(r"savefig\(\"(\S+)\"", text)
    assert bool(pictures) == is_run  # each of the three uses ends in a figure
    for picture in pictures:
        assert (tmp_path / picture).stat().st_size > 5_000
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("page", SHELL, ids=name_of)
def test_commands_of_a_page_exist(page):
    for block in blocks_of(page.read_text(), "bash"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "plasticity":
                assert words[1] in COMMANDS, line


def test_the_readme_counts_the_mitigations():
    readme = ALL[0].read_text()
    others, compared = re.findall(r"(\d+) (?:other )?mitigations", readme)
    assert int(compared) == len(MITIGATIONS.keys() - {"shift"})  # shift is a control
    assert int(others) == int(compared) - 1  # besides syre
