"""Seeds as they are typed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasticity.scripts.config.seed_ranges import seeds_from_words, words_from_seeds


@given(
    st.lists(
        st.one_of(
            st.integers(0, 10**6),
            st.tuples(st.integers(0, 10**6), st.integers(0, 20)).map(lambda p: (p[0], sum(p))),
        )
    )
)
def test_numbers_and_ranges_in_their_order(given):
    words = [f"{each[0]}..{each[1]}" if isinstance(each, tuple) else str(each) for each in given]
    expected = []
    for each in given:
        expected += list(range(each[0], each[1] + 1)) if isinstance(each, tuple) else [each]
    assert seeds_from_words(words) == tuple(expected)
    assert seeds_from_words(words_from_seeds(expected)) == tuple(expected)


def test_both_ends_count():
    assert seeds_from_words(["0..3", "7"]) == (0, 1, 2, 3, 7)
    assert seeds_from_words(["5..5"]) == (5,)
    assert seeds_from_words([]) == ()
    assert seeds_from_words(["-1"]) == (-1,)  # told like any other setting that is out of range


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("x", "'x': give whole numbers, and ranges FIRST..LAST"),
        ("1..", "'1..': give whole numbers"),
        ("..3", "'..3': give whole numbers"),
        ("1-3", "'1-3': give whole numbers"),
        ("1...3", "'1...3': give whole numbers"),
        ("-1..3", "'-1..3': give whole numbers"),
        ("1.5", "'1.5': give whole numbers"),
        ("3..1", "3..1 runs backward: give the smaller end first, 1..3."),
        ("0..100000", "0..100000 are 100001 runs for each method: give at most 100000"),
    ],
)
def test_what_is_no_seed_is_refused(word, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        seeds_from_words(["0", word])
