"""What stands in a text for what is to be told, such as `<mask>` and `<extra_id_0>`: to tokenizers it is text."""

import re

from molino.data.tokenizers import MASKS, Tokenizer

HOLES = re.compile("|".join([*map(re.escape, MASKS), r"<extra_id_\d+>"]))


def with_holes(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a text in which masks, by any of their names, and the like stand for some, and the places of
    these. For a tokenizer that does not know them they are text."""
    ids: list[int] = []
    places, end = [], 0
    for found in HOLES.finditer(text):
        if (id := _id_of(tokenizer, found[0])) is None:
            continue
        part = text[end : found.start()]
        # Where a space is part of the word behind it, it is part of what is hidden.
        ids += tokenizer.encode(part.rstrip(" ") if joins_spaces(tokenizer) else part).tolist()
        places.append(len(ids))
        ids.append(id)
        end = found.end()
    return ids + tokenizer.encode(text[end:]).tolist(), places


def without_holes(tokenizer: Tokenizer, text: str) -> str:
    """Return what is text of it."""
    return HOLES.sub(lambda found: found[0] if _id_of(tokenizer, found[0]) is None else "", text)


def joins_spaces(tokenizer: Tokenizer) -> bool:
    """Tell whether a space is part of the token behind it."""
    return len(ids := tokenizer.encode(" a")) == 1 and tokenizer.decode(ids).startswith(" ")


def _id_of(tokenizer: Tokenizer, name: str) -> int | None:
    return tokenizer.mask_id if name in MASKS else tokenizer.backend.token_to_id(name)
