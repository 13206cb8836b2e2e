"""Generated pages, by the paths that the navigation names."""

import re
from pathlib import Path

from plasticity.scripts.reference.pages import reference_pages

NAVIGATION = (Path(__file__).parents[3] / "mkdocs.yml").read_text().split("\nnav:\n")[1]


def test_the_navigation_names_each_generated_page():
    pages = reference_pages()
    docs = Path(__file__).parents[3] / "docs"
    named = re.findall(r"(?<=[ :])[\w/.-]+\.md", NAVIGATION)
    written = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    assert sorted(named) == sorted({*written, *pages})
    assert all(text.startswith("# ") for text in pages.values())
