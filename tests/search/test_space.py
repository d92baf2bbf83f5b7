"""A search space is what Hydra's syntax says, as Optuna's own distributions."""

import random

import pytest
from conftest import ROOT
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from molino.base.errors import ConfigError
from molino.search.space import corners, describe, search_space, values


def parse(*texts: str) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(texts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("choice(bigram,gpt)", CategoricalDistribution(("bigram", "gpt"))),
        ("1,2,2.5,null,true,1e-3", CategoricalDistribution(("1", "2", "2.5", "null", "True", "0.001"))),
        ("1,2,1", CategoricalDistribution(("1", "2"))),
        ("shuffle(c,b,a)", CategoricalDistribution(("c", "b", "a"))),
        ("range(1,7)", IntDistribution(1, 6)),
        ("range(4)", IntDistribution(0, 3)),
        ("range(1,8,3)", IntDistribution(1, 7, step=3)),
        ("range(7,1,-2)", IntDistribution(3, 7, step=2)),
        ("range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("tag(log,range(1,65))", IntDistribution(1, 64, log=True)),
        ("shuffle(range(1,4))", IntDistribution(1, 3)),
        ("interval(0.0,0.5)", FloatDistribution(0.0, 0.5)),
        ("interval(-1,0.5)", FloatDistribution(-1.0, 0.5)),
        ("interval(1,8)", FloatDistribution(1.0, 8.0)),
        ("int(interval(-2,8))", IntDistribution(-2, 8)),
        ("int(interval(start=1,end=8))", IntDistribution(1, 8)),
        ("interval(1.0,8)", FloatDistribution(1.0, 8.0)),
        ("interval(1e0,8)", FloatDistribution(1.0, 8.0)),
        ("float(interval(1,8))", FloatDistribution(1.0, 8.0)),
        ("int(interval(1.0,8.0))", IntDistribution(1, 8)),
        ("tag(int,interval(1.5,8.5))", IntDistribution(2, 8)),
        ("tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("tag(log,int(interval(1,1000)))", IntDistribution(1, 1000, log=True)),
        ("tag(log,int,interval(1,1000))", IntDistribution(1, 1000, log=True)),
    ],
)
def test_what_is_searched_for(text, expected):
    (found,) = search_space(parse(f"a.b={text}")).values()
    assert found == expected and type(found) is type(expected)
    # Ints must not come out as floats, nor the other way round.
    for name in ("low", "high"):
        assert type(getattr(found, name, None)) is type(getattr(expected, name, None))


def test_only_what_is_varied_is_searched_for():
    space = search_space(parse("data=text", "+model.x=1,2", "seed=range(0,3)", "optimizer.betas=[0.9,0.95]"))
    assert list(space) == ["+model.x", "seed"]


def test_choices_of_a_pattern_are_the_files_there_are():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(["model=glob([gpt*],exclude=gpt1)"])
    assert search_space(overrides)["model"].choices == ("gpt", "gpt2")


@pytest.mark.parametrize("text", ["'a b','c,d'", "'it\\'s',\"x=1\"", "'','1'", "[1,2],[3,4]", "{a:1},{a:2}", "a/b,c"])
def test_a_choice_reads_back_as_what_was_typed(text):
    (typed,) = parse(f"x={text}")
    wanted = [getattr(value, "text", value) for value in typed.value().list]
    (space,) = search_space([typed]).values()
    read = parse(*(f"x={choice}" for choice in space.choices))
    assert [getattr(each.value(), "text", each.value()) for each in read] == wanted


def test_floats_read_back_exactly():
    draw = random.Random(0)
    for value in [
        1e-5,
        1e22,
        5e-324,
        0.1 + 0.2,
        *(draw.uniform(-1, 1) * 10 ** draw.uniform(-30, 30) for _ in range(200)),
    ]:
        (read,) = parse(f"x={value}")
        assert read.value() == value and isinstance(read.value(), float)


@pytest.mark.parametrize("text", ["range(1,7)", "range(0,10,3)", "range(5,-5,-2)", "range(0.5,3,0.25)", "b,a,c"])
def test_the_values_of_a_space_are_those_that_hydra_lists(text):
    (override,) = parse(f"x={text}")
    (space,) = search_space([override]).values()
    listed = values(space)
    assert sorted(listed) == sorted(override.sweep_iterator())
    assert all(space._contains(space.to_internal_repr(value)) for value in listed)


def test_an_interval_has_no_list_of_values_unless_they_are_whole():
    assert values(FloatDistribution(0, 1)) is None
    assert values(IntDistribution(1, 3)) == [1, 2, 3]


def test_corners_show_each_choice_and_each_end():
    space = search_space(parse("model=gpt,llama", "x=interval(0.5,2.0)", "seed=range(0,5)"))
    assert corners(space) == [
        {"model": "gpt", "x": 0.5, "seed": 0},
        {"model": "llama", "x": 0.5, "seed": 0},
        {"model": "gpt", "x": 2.0, "seed": 0},
        {"model": "gpt", "x": 0.5, "seed": 4},
    ]


def test_two_spaces_are_described_alike_only_if_they_are_alike():
    intervals = ["int(interval(1,2))", "interval(1.0,2.0)", "tag(log,interval(1,2))"]
    texts = ["1,2", "range(1,3)", *intervals, "range(1,4,2)", "2,1"]
    words = [describe(search_space(parse(f"x={text}"))["x"]) for text in texts]
    # range(1,3) and int(interval(1,2)) are the same.
    assert words[1] == words[2] and len(set(words)) == len(texts) - 1
    assert describe(search_space(parse("x=choice(1,2)"))["x"]) == words[0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("interval(1,1)", "is empty"),
        ("interval(0.5,0.1)", "is empty"),
        ("interval(8,1)", "is empty"),
        ("interval(0,inf)", "must be finite"),
        ("interval(nan,1)", "must be finite"),
        ("tag(log,interval(0,1))", "log"),
        ("tag(log,interval(0.0,1))", "log"),
        ("tag(log,interval(-1.0,1))", "log"),
        ("tag(int,interval(0.2,0.8))", "no whole number"),
        ("range(3,3)", "is empty"),
        ("range(3,1)", "is empty"),
        ("tag(log,range(1,9,2))", "log"),
        ("tag(log,range(0,9))", "log"),
        ("tag(log,range(0.5,2,0.5))", "log"),
        ("tag(int,range(0.5,2,0.5))", "no whole numbers"),
        ("tag(lgo,interval(1,2))", "tag lgo is unknown, there are int and log"),
        ("tag(log,choice(1,2))", "tags are for intervals and ranges"),
    ],
)
def test_what_is_no_space(text, part):
    with pytest.raises(ConfigError, match=r"^x=.* is no space to search in: ") as error:
        search_space(parse(f"x={text}"))
    assert part in str(error.value) and "\n" not in str(error.value)


def test_an_empty_space():
    with pytest.raises(ConfigError, match="the search space is empty"):
        search_space(parse("seed=1", "data=text"))
