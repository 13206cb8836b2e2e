"""Blocks of code in a page, and the comments above them."""

import pytest

from plasticity.scripts.reference.blocks import Text, blocks_of, parts_of

PAGE = """# Title

Prose.

<!-- needs: lightning transformers -->
<!-- small: "steps=400" -> "steps=5", "x" -> "y" -->
```python
run(steps=400, x=1)
```

More prose.

```bash
plasticity list
```

```python
# my_module.py
VALUE = 1
```
"""


def test_parts_come_in_their_order():
    first, code, more, shell, module = parts_of(PAGE)
    assert first == Text(markdown="# Title\n\nProse.\n\n")
    assert (code.language, code.code) == ("python", "run(steps=400, x=1)\n")
    assert code.needs == ("lightning", "transformers")
    assert more.markdown.strip() == "More prose."
    assert (shell.language, shell.code, shell.small) == ("bash", "plasticity list\n", {})
    assert (code.file, module.file) == (None, "my_module.py")


def test_a_block_is_made_small():
    (code, module) = blocks_of(PAGE, "python")
    assert code.smaller() == "run(steps=5, y=1)\n"
    assert module.smaller() == module.code


def test_a_replacement_of_nothing_is_refused():
    (code, _) = blocks_of(PAGE.replace("run(steps=400", "run(steps=300"), "python")
    with pytest.raises(ValueError, match=r"replaces 'steps=400'.*begins with 'run\(steps=300"):
        code.smaller()


def test_an_unknown_comment_is_refused():
    with pytest.raises(ValueError, match="<!-- need: … --> must be `needs` or `small`"):
        parts_of(PAGE.replace("needs:", "need:"))


def test_a_comment_above_no_block_is_refused():
    with pytest.raises(ValueError, match="'small' stands above no block"):
        parts_of('Prose.\n\n<!-- small: "a" -> "b" -->\nMore.\n')
