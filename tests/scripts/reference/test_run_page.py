"""Code of a page, run in order in a folder."""

from pathlib import Path

import pytest

from plasticity.scripts.reference.run_page import run_page

PAGE = """
```python
# my_module.py
VALUE = 7
```

<!-- small: "400" -> "5" -->
```python
steps = 400
```

```python
from pathlib import Path

total = steps + int(Path("my_module.py").read_text().split()[-1])
```

```bash
plasticity list --networks   # and something that is no command of ours:
rm -rf /nothing
```
"""


def test_blocks_share_their_names_and_their_folder(tmp_path, capsys):
    before = Path.cwd()
    assert run_page(PAGE, tmp_path, small=False)["total"] == 407
    assert run_page(PAGE, tmp_path, small=True)["total"] == 12
    assert Path.cwd() == before
    assert [path.name for path in tmp_path.iterdir()] == ["my_module.py"]
    assert capsys.readouterr().out.count("networks:") == 2


def test_commands_can_be_left_out(tmp_path, capsys):
    run_page(PAGE, tmp_path, small=True, commands=False)
    assert capsys.readouterr().out == ""


def test_a_command_that_fails_is_an_error(tmp_path):
    page = "```bash\nplasticity report nowhere\n```\n"
    with pytest.raises(RuntimeError, match="plasticity report nowhere ended with exit code 2"):
        run_page(page, tmp_path, small=True)
