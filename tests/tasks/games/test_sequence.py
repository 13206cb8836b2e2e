"""Sequence of games: whose turn it is, as a function of the index alone, and bad names."""

import pytest

from plasticity.tasks.games.sequence import GameSchedule, GameStream, GameTask, checked_games

KNOWN = ("asterix", "breakout", "freeway")


def test_the_games_follow_each_other_and_begin_anew():
    stream = GameStream(5, 0, ("freeway", "asterix"))
    games = ["freeway", "asterix", "freeway", "asterix", "freeway"]
    assert [stream.describe(index) for index in range(5)] == [{"game": game} for game in games]
    assert stream[3] == GameStream(9, 1, ("freeway", "asterix"))[3] == GameTask(3, "asterix")
    with pytest.raises(IndexError):
        stream[5]


def test_the_schedule_is_the_streams():
    schedule = GameSchedule(games=KNOWN, task_seed=0, change_every=10, num_tasks=4)
    stream = GameStream(4, 0, KNOWN)
    assert [schedule.task_at(steps) for steps in (0, 9, 10, 29, 30, 99)] == [
        stream[index] for index in (0, 0, 1, 2, 3, 3)
    ]
    constant = GameSchedule(games=KNOWN, task=GameTask(0, "breakout"))
    assert constant.task_at(10**6).values() == {"game": "breakout"}


@pytest.mark.parametrize(
    ("games", "error", "message"),
    [
        ("asterix", TypeError, "must be names of games"),
        ((), ValueError, "at least one game"),
        (("asterisk",), ValueError, "Did you mean 'asterix'"),
        ((3,), TypeError, "a game"),
    ],
)
def test_bad_games(games, error, message):
    with pytest.raises(error, match=message):
        checked_games(games, KNOWN)
