"""Stop texts: the same wherever pieces begin and end, and nothing of one is ever shown."""

import random

import pytest

from molino.base.errors import ConfigError
from molino.generation.stopping import END, LENGTH, STOP, Row, Stops, check_stops


def first_end(text, stops):
    """Character by character: where the text ends before the stop text that is complete first."""
    for end in range(len(text) + 1):
        if met := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - len(max(met, key=len))], True
    return text, False


@pytest.mark.parametrize("seed", range(200))
def test_where_pieces_begin_changes_nothing(seed):
    drawn = random.Random(seed)
    text = "".join(drawn.choices("abc", k=20))
    stops = ["".join(drawn.choices("abc", k=drawn.randint(2, 6))) for _ in range(drawn.randint(0, 3))]
    wanted, met = first_end(text, stops)
    found, shown, rest = Stops(stops), "", text
    while rest:
        size = drawn.randint(1, 5)
        shown += found.push(rest[:size])
        rest = rest[size:]
        assert wanted.startswith(shown)
        # No more is held back than may become a stop text.
        assert found.met or not any(stop in shown for stop in stops)
        assert len(found.held) < max(map(len, stops), default=1) or found.met
    assert (shown + found.end(), found.met) == (wanted, met)


def test_what_is_held_back_is_let_go_as_soon_as_it_can():
    found = Stops(["User:"])
    assert [found.push(each) for each in ("a Us", "er", " b U", "s")] == ["a ", "", "User b ", ""]
    assert found.end() == "Us" and not found.met


def test_a_stop_that_is_empty():
    with pytest.raises(ConfigError, match='stop="" would end every text'):
        check_stops(["a", ""])
    check_stops([])


def decode(ids):
    return "".join("abcdefgh"[each] for each in ids)


def test_a_row_ends_by_a_token_a_text_or_its_length():
    row = Row(decode, [0], ends=[7, 6], stops=["bcd"])
    assert [row.take(each, -float(each)) for each in (4, 1, 2)] == ["e", "", ""] and row.ended is None
    assert row.take(3, -3.0) == "" and (row.ended, row.text) == (STOP, "e")
    assert row.tokens == [4, 1, 2, 3] and row.logps == [-4.0, -1.0, -2.0, -3.0] and row.finish() == ""
    row = Row(decode, [], ends=[7, 6], stops=["bcd"])
    assert [row.take(each) for each in (4, 1, 2, 7)] == ["e", "", "", "bc"]
    assert (row.ended, row.text, row.tokens, row.logps) == (END, "ebc", [4, 1, 2, 7], [])
    row = Row(decode, [], ends=[], stops=["bcd"])
    assert [row.take(1), row.take(2), row.finish()] == ["", "", "bc"] and (row.ended, row.text) == (LENGTH, "bc")


def test_a_row_that_is_not_shown_as_it_comes_is_the_same_text():
    rows = [Row(decode, [5], ends=[7], stops=stops, live=False) for stops in ([], ["cd"])]
    for row in rows:
        assert [row.take(each) for each in (0, 1)] == (["", ""] if row.waits else ["a", "b"])
        row.take(2)
        row.take(7)
        assert (row.text, row.ended, row.tokens) == ("abc", END, [0, 1, 2, 7])
    assert [row.waits for row in rows] == [True, False]


def test_a_stop_text_may_be_what_a_text_ends_with_in_the_middle_of_a_character():
    """The last bytes are shown as what stands for broken ones, which a stop text may be."""
    row = Row(lambda ids: bytes(ids).decode("utf-8", "replace"), [], ends=[], stops=["\ufffd"])
    assert [row.take(97), row.take(0xC3), row.finish()] == ["a", "", ""] and (row.ended, row.text) == (STOP, "a")
