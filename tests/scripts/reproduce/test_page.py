"""Page of all figures: each result with its verdict, its conditions and its picture."""

import json
from html.parser import HTMLParser

import pytest

from plasticity.scripts.reproduce.page import page, write_page
from plasticity.scripts.reproduce.record import Record, load, save
from plasticity.scripts.reproduce.verdict import Check


def record(**changes):
    fields = {
        "figure": "teacher-student",
        "paper": "A <b>Paper</b> (1905)",
        "number": "Fig. 1",
        "claim": "1 < 2",
        "scale": "small",
        "seeds": [0, 1],
        "settings": {},
        "outcome": "partly",
        "requirements": [Check("it learns", True, {"mean": 0.5})],
        "claims": [Check("it falls", False, {"mean": None})],
        "sentence": "it rose & fell",
        "diverged": ["runs/a"],
        "minutes": 1.25,
        "command": "plasticity reproduce teacher-student",
        "date": "2026-01-02",
        "versions": {"python": "3.11"},
        "git_commit": None,
    }
    return Record(**(fields | changes))


class Links(HTMLParser):
    """Targets of the links, and the places that they may point to."""

    def __init__(self):
        super().__init__()
        self.links, self.places = [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.links += [given["href"]] if "href" in given else []
        self.places += [given["id"]] if "id" in given else []


def test_a_section_tells_all():
    text = page([(record(), b"\x89PNG"), (record(scale="full"), b"\x89PNG")])
    for part in (
        "teacher-student: partly",
        "Fig. 1 of: A &lt;b&gt;Paper&lt;/b&gt; (1905). Scale small, 2 seeds.",
        "<b>Claim:</b> 1 &lt; 2.",
        "it rose &amp; fell",
        "yes  it learns (mean 0.5)",
        "NO   it falls (mean none)",
        "<pre>plasticity reproduce teacher-student</pre>",
        "1 runs diverged",
        "iVBO",  # the picture: the base64 of \x89PNG begins so
    ):
        assert part in text.replace("data:image/png;base64,iVBORw==", "iVBO"), part
    found = Links()
    found.feed(text)
    assert found.links == ["#teacher-student-small", "#teacher-student-full"]
    assert found.places == [link[1:] for link in found.links]


def test_the_page_is_of_what_there_is(tmp_path):
    assert write_page(tmp_path) is None
    save(tmp_path, record(), b"\x89PNG")
    assert write_page(tmp_path) == tmp_path / "figures.html"
    assert load(tmp_path, "teacher-student", "small") == (record(), b"\x89PNG")
    assert record().in_short == "partly (2026-01-02, 2 seeds, 1.25 minutes)"
    assert record(minutes=None).in_short == "partly (2026-01-02, 2 seeds)"


def test_a_broken_result_is_left_out_and_named(tmp_path):
    save(tmp_path, record(), b"\x89PNG")
    _, broken = save(tmp_path, record(scale="full"), b"\x89PNG")
    broken.with_suffix(".png").unlink()
    assert write_page(tmp_path) == tmp_path / "figures.html"
    text = (tmp_path / "figures.html").read_text()
    assert f"<b>Left out:</b> {broken} is not the result of a figure" in text
    assert "teacher-student-small" in text
    assert "teacher-student-full" not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("figure", "ridge"),
        ("scale", "full"),
        ("minutes", "long"),
        ("seeds", 3),
        ("sentence", None),
        ("diverged", 1),
        ("claims", [{"statement": "it falls", "passed": True, "figures": [1]}]),
        ("more", 1),
    ],
)
def test_results_that_cannot_be_shown_are_refused(tmp_path, key, value):
    _, file = save(tmp_path, record(), b"\x89PNG")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ValueError, match="with its picture beside it"):
        load(tmp_path, "teacher-student", "small")
