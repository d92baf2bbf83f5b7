"""The chat template of a Hugging Face folder: what makes one text of the messages of a conversation.

A template is a program in Jinja's language that somebody else wrote. It runs in Jinja's sandbox, which lets it at
nothing but the messages and the names of special tokens, and what it makes is bounded.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molino.base.errors import CheckpointError, DataError

CONFIG, OLDER, TEMPLATE = "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"
LONGEST = 10**7  # characters that a template may make
Message = dict[str, str]  # "role": system, user or assistant; "content": what is said


@dataclass(frozen=True)
class ChatTemplate:
    """A template, and the special tokens that it may name: {"bos_token": "<s>", ...}.

    Attributes:
        folder: where it was found, for messages.
    """

    folder: Path
    text: str
    tokens: dict[str, Any]

    def render(self, messages: Sequence[Message]) -> str:
        """Return a conversation in the model's form, up to where the assistant is to go on.

        Raises:
            DataError: the template fails or refuses such messages, or makes too much of them.
        """
        given = {"messages": [dict(each) for each in messages], "tools": None, "documents": None}
        made, length = [], 0
        try:
            for piece in _compiled(self.text).generate(**self.tokens, **given, add_generation_prompt=True):
                made.append(piece)
                length += len(piece)
                if length > LONGEST:
                    raise ValueError(f"it makes more than {LONGEST:,} characters")
        except Exception as error:  # whatever somebody else's program comes to
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"the chat template of {self.folder} cannot be used here: {reason}") from error
        return "".join(made)


def read_chat_template(folder: Path) -> ChatTemplate:
    """Return the chat template of a folder: that of its own file, or of tokenizer_config.json.

    Raises:
        CheckpointError: a file is damaged.
        DataError: the folder has none.
    """
    config = _read(folder / OLDER) | _read(folder / CONFIG)
    text = config.get("chat_template")
    if isinstance(text, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in text if isinstance(each, dict)}
        text = named.get("default")
    try:
        text = (folder / TEMPLATE).read_text("utf-8")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / TEMPLATE} cannot be read ({error}): fetch it again") from error
    if not isinstance(text, str):
        raise DataError(f"{folder} has no chat template, which chat=true needs: leave that out, and write the form")
    tokens = {name: _content(value) for name, value in config.items() if name.endswith("_token")}
    return ChatTemplate(folder, text, {name: token for name, token in tokens.items() if token is not None})


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): fetch it again") from error


def _content(value: Any) -> str | None:
    """Return a token that is written out, or as an object with what its text is; None if it is neither."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _compiled(text: str) -> Any:
    """Return a template, set up as `transformers` sets up its own."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

    class Generation(Extension):
        """`{% generation %}` marks what an assistant said, for training on it. Here it is passed over."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Sandbox(ImmutableSandboxedEnvironment):
        """Jinja's own, in which no product is larger than a text may be."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            sizes = [len(each) if isinstance(each, str | list | tuple) else abs(each) for each in (left, right)]
            if operator == "**" or sizes[0] * sizes[1] > LONGEST:
                raise SecurityError(f"{left!r:.20} {operator} {right!r:.20} is too much for a template")
            return super().call_binop(context, operator, left, right)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def as_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = as_json
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
    }
    return environment.from_string(text)
