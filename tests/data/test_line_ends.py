"""Line ends, counted in pieces against counting in the whole."""

import random
import re

from molino.data.line_ends import LINE_ENDS, LineEnds, only_line_end, remark_on_returns
from molino.data.tokenizers import train_char, train_whitespace, train_word


class Own:
    newlines = None


def counted(*strings):
    found = LineEnds()
    for string in strings:
        found.add(string)
    return found.counts()


def test_they_are_counted_however_the_text_is_cut():
    source = random.Random(0)
    for _ in range(200):
        text = "".join(source.choices("a\r\n", k=30))
        plain, *expected = [len(re.findall(end, text)) for end in (r"(?<!\r)\n", r"\r\n", r"\r(?!\n)")]
        expected = [min(plain, 1), *expected]
        cuts = sorted(source.choices(range(31), k=5))
        strings = [text[a:b] for a, b in zip([0, *cuts], [*cuts, 30], strict=True) if a < b]
        assert list(counted(*strings).values()) == expected == list(counted(text).values())
        (only,) = (
            [end for end, n in zip(LINE_ENDS, expected, strict=True) if n] if sum(map(bool, expected)) == 1 else [None]
        )
        assert only_line_end(counted(text)) == only
    assert only_line_end({}) is None


def test_returns_are_told_where_they_are_learnt():
    characters = train_char(["a\r\nb\r\n\rc\n"])
    told = remark_on_returns(counted("a\r\nb\r\n\rc\n"), characters, Own())
    assert told.startswith("\\r\\n 2 times and \\r 1 times: \\r is learnt") and told.endswith(
        "data.newlines=universal reads it as \\n"
    )
    assert "newlines" not in remark_on_returns(counted("a\r\n"), characters, object())
    assert remark_on_returns(counted("a\nb"), characters, Own()) is None
    assert remark_on_returns({}, characters, Own()) is None
    # To these \r is white space, and a line end must have \n.
    assert remark_on_returns(counted("a\r\nb"), train_word(["a b"]), Own()) is None
    assert remark_on_returns(counted("a\r\nb"), train_whitespace(["a\nb"]), Own()) is None
    assert remark_on_returns(counted("a\rb"), train_whitespace(["a\nb"]), Own()).startswith("\\r 1 times:")
