from molino.base.messages import few


def test_of_many_names_there_are_a_few_and_a_count():
    assert few([]) == "" and few(["a"]) == "a" and few("abc", 3) == "a, b, c"
    assert few(iter("abcd"), 3) == "a, b, c and 1 more"
    assert few(map(str, range(2000))).endswith("8, 9 and 1,990 more")
