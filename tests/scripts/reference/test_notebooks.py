"""Notebooks made of pages."""

import json

from plasticity.scripts.reference.notebooks import INSTALL, notebook_of, write_notebooks

PAGE = """# Title

See [the other page](other.md) and [the paper](https://example.org).

<!-- small: "400" -> "5" -->
```python
steps = 400
```

![Picture](picture.png)

```bash
plasticity list

plasticity report \\
    runs
```
"""


def test_prose_and_code_become_cells():
    cells = notebook_of(PAGE, "page")["cells"]
    assert [cell["cell_type"] for cell in cells] == [
        *("code", "markdown", "code", "code"),
    ]
    install, prose, code, shell = cells  # a picture alone is no cell
    assert install["source"] == INSTALL.strip()
    assert prose["source"].endswith("See the other page and [the paper](https://example.org).")
    assert (code["source"], code["metadata"]) == ("steps = 400", {"small": {"400": "5"}})
    assert shell["source"] == "!plasticity list\n!plasticity report runs"
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")


def test_files_are_named_as_their_pages(tmp_path):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "one.md").write_text(PAGE)
    (path,) = write_notebooks(tmp_path)
    assert path == tmp_path / "notebooks" / "one.ipynb"
    assert json.loads(path.read_text()) == notebook_of(PAGE, "one")
