"""Pages of the Python interface: an entry for every public name, once."""

import re

import plasticity
from plasticity.mitigations import MITIGATIONS
from plasticity.scripts.reference.interface import (
    PACKAGES,
    interface_pages,
    path_of,
    public_names,
)


def entries(pages):
    return re.findall(r"^::: (\S+)$", "\n".join(pages.values()), re.MULTILINE)


def test_every_public_name_is_described_once():
    pages = interface_pages()
    found = entries(pages)
    assert len(found) == len(set(found))
    names = {each.rsplit(".", 1)[1] for each in found}
    assert names >= set(plasticity.__all__)
    own = {each for each in found if each.count(".") == 1}
    assert own == {"plasticity.Attached", "plasticity.attach", "plasticity.convert"}


def test_a_function_with_the_name_of_its_module_is_meant():
    assert path_of("plasticity.metrics", "capture") == "plasticity.metrics.capture.capture"
    assert path_of("plasticity.metrics", "srank") == "plasticity.metrics.srank"


def test_the_page_at_the_top_points_to_the_others():
    top = interface_pages()["plasticity.md"]
    assert (
        "| [`effective_rank`][plasticity.metrics.effective_rank] | Compute the exponential of"
        in top
    )
    assert "[`regularized`][plasticity.optim.regularized]" in top


def test_mitigations_are_all_there():
    names = public_names("plasticity.mitigations")
    assert {kind.__name__ for kind in MITIGATIONS.values()} <= set(names)
    assert len(names) == len(set(names))


def test_every_package_has_a_page():
    assert {f"{name}.md" for name in PACKAGES} < interface_pages().keys()
