"""Texts that are gone on with in turns: a person's and the model's; as one text, or as the messages of a chat."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from molino.base.errors import ConfigError, DataError
from molino.data.prompt import encode_prompt, remark
from molino.data.tokenizers import Tokenizer
from molino.generation.context import Context
from molino.generation.decode import seeds_of
from molino.generation.stopping import END, STOP, Row
from molino.hub.chat import ChatTemplate, Message, read_chat_template
from molino.hub.read import find_folder
from molino.trained.writing import Opening, Writer, Written

# Two characters of no script around a special token that somebody has typed: there it is text.
TYPED = "\ue0f0", "\ue0f1"


@dataclass(frozen=True)
class Chat:
    """What makes tokens of messages: a folder's template.

    Attributes:
        system: what the model is told before all messages; None for nothing.
    """

    template: ChatTemplate
    system: str | None = None

    def messages(self, *said: str) -> list[Message]:
        """Return what was said in turns, first by a user, as messages."""
        turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
        return [*([{"role": "system", "content": self.system}] if self.system is not None else []), *turns]

    def read(self, messages: Sequence[Message], tokenizer: Tokenizer) -> Opening:
        """Return the tokens of messages in the model's form, up to where the assistant is to go on.

        Names of special tokens stand for these where the template writes them; within what is said they are text.

        Raises:
            DataError: the template fails, or makes nothing of them.
        """
        names = re.compile("|".join(map(re.escape, tokenizer.marks)) or "(?!)")

        def marked(text: str) -> str:
            return names.sub(lambda found: found[0].join(TYPED), re.sub("[" + "".join(TYPED) + "]", "", text))

        text = self.template.render([each | {"content": marked(each["content"])} for each in messages])
        ids: list[int] = []
        # Every second part was typed.
        for number, part in enumerate(re.split(f"{TYPED[0]}(.*?){TYPED[1]}", text, flags=re.DOTALL)):
            ids += tokenizer.encode(part).tolist() if number % 2 else tokenizer.encode_marked(part)
        if not ids:
            raise DataError(f"the chat template of {self.template.folder} makes nothing of what was said")
        return Opening(ids, ids)


def read_chat(source: str | None, system: str | None) -> Chat:
    """Return how the Hugging Face folder or hub id `source` is chatted with.

    Raises:
        ConfigError: there is none.
        CheckpointError, DataError: it has no template, or a damaged one.
    """
    if source is None:
        raise ConfigError("chat=true needs source=<a Hugging Face folder or hub id>: a run has no chat template")
    return Chat(read_chat_template(find_folder(source)), system)


class Conversation:
    """One text that a person and the model write in turns. What has been read is not read again.

    Without a chat, what a person adds goes on right where the model has ended. Each turn of the model's is drawn from a
    stream of its own, the first from that of a first sample. Once the text has outgrown the context its window moves as
    molino.generation.context says.
    """

    def __init__(self, writer: Writer, chat: Chat | None = None):
        self.writer, self.chat = writer, chat
        self.generator = torch.Generator().manual_seed(writer.sampling.seed)
        self.said: list[str] = []  # of a chat
        self.ids: list[int] = []  # of the text so far
        self.rest = ""  # what is shown of the text behind these
        self.began = 0  # tokens of the first turn that its first window leaves out
        self.texts: Context | None = None
        self.told = False

    def turn(self, typed: str) -> Iterator[str]:
        """Take up what a person adds; return an iterator over what the model adds, piece by piece as it is readable."""
        opening = self._opening(typed)
        self._tell(len(opening.ids))
        return self._answer(opening)

    def _answer(self, opening: Opening) -> Iterator[str]:
        row, most = self.writer.row(opening), self.writer.sampling.max_new_tokens
        seeds = seeds_of(self.generator, 1)
        for pieces in self.writer.grow(lambda: self._context(opening.ids, most), seeds, [Written(row)]):
            if pieces[0]:
                yield pieces[0]
        self._keep(opening, row)

    def _opening(self, typed: str) -> Opening:
        tokenizer = self.writer.loaded.tokenizer
        if self.chat is not None:
            self.said.append(typed)
            opening = self.chat.read(self.chat.messages(*self.said), tokenizer)
            return opening if self.ids else self.writer.cut(opening)
        if not self.ids:
            return self.writer.opening(typed)
        ids = [*self.ids, *encode_prompt(self.rest + typed, tokenizer, (), self.writer.loaded.line_end)]
        return Opening(ids, ids)

    def _context(self, ids: list[int], most: int) -> Context:
        """Return the text with what was added, with room for `most` more."""
        if self.texts is None:
            model = self.writer.loaded.model
            self.began = max(0, len(ids) - model.block_size)
            self.texts = Context(model, [torch.tensor(ids)], 1, most, self.writer.sampling.cache)
        else:
            self.texts.follow(torch.tensor(ids[self.began :]), most)
        return self.texts

    def _keep(self, opening: Opening, row: Row) -> None:
        """Take up what the model has added: what was shown of it."""
        if self.chat is not None:
            self.said.append(row.text)
        tokens = row.tokens[:-1] if row.ended == END else row.tokens
        kept = len(tokens) if row.ended != STOP else self._shown(opening, row)
        self.ids = [*opening.ids, *tokens[:kept]]
        self.rest = row.text[len(self._text(opening, tokens[:kept])) :] if row.ended == STOP else ""

    def _shown(self, opening: Opening, row: Row) -> int:
        """Return how many tokens of a row stand before the text that stopped it."""
        count = len(row.tokens)
        while count and not row.text.startswith(self._text(opening, row.tokens[:count])):
            count -= 1
        return count

    def _text(self, opening: Opening, tokens: list[int]) -> str:
        decode, context = self.writer.loaded.tokenizer.decode, opening.context
        return decode([*context, *tokens])[len(decode(context)) :]

    def _tell(self, length: int) -> None:
        """Say once that the text has outgrown the context."""
        block_size = self.writer.loaded.model.block_size
        if not self.told and self.texts is not None and length - self.began > block_size:
            remark(f"the text has outgrown the context of {block_size} tokens: the model no longer sees its beginning")
            self.told = True
