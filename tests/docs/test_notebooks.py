"""Notebooks: as their pages are, and each runs from its first cell to its last, in a smaller size."""

from pathlib import Path

import pytest

from plasticity.scripts.reference.notebooks import notebook_text

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def test_there_is_one_for_each_use_as_its_page_is():
    pages = sorted((DOCS / "start").glob("*.md"))
    assert [path.stem for path in NOTEBOOKS] == [page.stem for page in pages]
    assert len(pages) == 3
    for path, page in zip(NOTEBOOKS, pages, strict=True):
        assert path.read_text() == notebook_text(page), f"{path.name} is old: `make notebooks`."


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is in the extra `docs`")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is in the extra `docs`")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        for large, small in cell.metadata.get("small", {}).items():
            assert large in cell.source
            cell.source = cell.source.replace(large, small)
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": tmp_path}}
    ).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 1
