"""Chat templates: the same text and tokens as of `transformers`, and nothing that a template should not reach."""

import json

import pytest
from chatting import CHATML, TEMPLATES, write_folder

from molino.base.errors import CheckpointError, DataError
from molino.hub.chat import LONGEST, ChatTemplate, read_chat_template

ONE = [{"role": "user", "content": "¿En qué lugar? "}]
TURNS = [
    *ONE,
    {"role": "assistant", "content": "<think>\nno\n</think>\n\nde la Mancha"},
    {"role": "user", "content": "sí\n"},
]
TALKS = {"one": ONE, "turns": TURNS, "system": [{"role": "system", "content": "Eres Cervantes. "}, *TURNS]}


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_templates_make_is_what_transformers_makes(tmp_path, name):
    reference = write_folder(tmp_path, TEMPLATES[name])
    template = read_chat_template(tmp_path)
    for talk in TALKS.values():
        wanted = reference.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        assert template.render(talk) == wanted and talk[-1]["content"].strip() in wanted


def config(folder, **content):
    (folder / "tokenizer_config.json").write_text(json.dumps(content), "utf-8")
    return folder


def test_where_a_template_stands(tmp_path):
    """Its own file counts first, as for `transformers`; of several in one the default; tokens also as objects."""
    token = {"content": "</s>", "lstrip": False}
    config(tmp_path, chat_template="{{ bos_token }}{{ eos_token }}{{ pad_token }}.", bos_token="<s>", eos_token=token)
    assert read_chat_template(tmp_path).render(ONE) == "<s></s>."
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<pad>", "bos_token": "older"}')
    assert read_chat_template(tmp_path).render(ONE) == "<s></s><pad>."
    config(tmp_path, chat_template=[{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}])
    assert read_chat_template(tmp_path).render(ONE) == "b"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", "utf-8")
    assert read_chat_template(tmp_path).render(ONE) == ONE[0]["content"]


def test_a_folder_without_one(tmp_path):
    with pytest.raises(DataError, match="has no chat template, which chat=true needs"):
        read_chat_template(tmp_path)
    config(tmp_path, chat_template=[{"name": "tool_use", "template": "a"}])
    with pytest.raises(DataError, match="has no chat template"):
        read_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    config(tmp_path)
    with pytest.raises(CheckpointError, match=r"chat_template.jinja cannot be read"):
        read_chat_template(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "access to attribute '__class__'"),
        ("{{ raise_exception.__globals__['json'] }}", "access to attribute '__globals__'"),
        ("{{ strftime_now.__code__.co_consts }}", "access to attribute '__code__'"),
        ("{{ messages.append(1) }}", "access to attribute 'append'"),
        ("{% include '/etc/passwd' %}", "no loader for this environment"),
        ("{% for i in range(10 ** 9) %}a{% endfor %}", "too much for a template"),
        ("{% for i in range(1000000000) %}a{% endfor %}", "Range too big"),
        ("{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}", f"more than {LONGEST:,} characters"),
        ("{{ 'a' * 1000000000 }}", "too much for a template"),
        ("{{ [1] * 1000000000 }}", "too much for a template"),
        ("{{ raise_exception('no system\nhere') }}", "no system here"),
        ("{{ messages[7]['content'] }}", "has no element 7"),
        ("{{ 1 // 0 }}", "division"),
        ("{% if %}", "Expected an expression"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
    ],
)
def test_what_a_template_may_not_or_cannot(tmp_path, text, says):
    with pytest.raises(DataError) as raised:
        ChatTemplate(tmp_path, text, {}).render(ONE)
    assert says in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"the chat template of {tmp_path} cannot be used here: ")


@pytest.mark.parametrize("text", ["{{ ''.__class__ }}", "{{ dict.mro }}", "{{ '{0.__class__}'.format(1) }}"])
def test_what_a_template_may_not_see_is_nothing(tmp_path, text):
    assert ChatTemplate(tmp_path, text, {}).render(ONE) == ""


def test_messages_are_not_changed(tmp_path):
    said = [dict(each) for each in TURNS]
    ChatTemplate(tmp_path, CHATML, {}).render(said)
    assert said == TURNS
