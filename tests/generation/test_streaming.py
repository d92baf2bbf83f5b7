"""Streamed text: whole characters, and spaces where they belong."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from molino.generation.streaming import decode_text


def byte_tokenizer() -> Tokenizer:
    """Byte-level BPE without merges: one token a byte, the hardest case."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_text_holds_back_unfinished_characters():
    tokenizer = byte_tokenizer()
    text = "año 漢字 😀!"
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text.encode())
    pieces = list(decode_text(tokenizer.decode, iter(ids)))
    assert pieces == list(text)
    assert list(decode_text(tokenizer.decode, ids, context=tokenizer.encode("El ").ids)) == list(text)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_random_bytes_join_to_the_whole(seed):
    tokenizer = byte_tokenizer()
    ids = torch.randint(256, (60,), generator=torch.Generator().manual_seed(seed)).tolist()
    assert "".join(decode_text(tokenizer.decode, ids)) == tokenizer.decode(ids)


def test_an_unfinished_end_is_shown():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("añ").ids[:-1]
    assert list(decode_text(tokenizer.decode, ids)) == ["a", "\ufffd"]


def test_words_join_the_context_with_a_space():
    words = ["", "hello", "world"]  # token 0 shows as nothing, as a special token does

    def decode(ids):
        return " ".join(words[i] for i in ids if i)

    assert list(decode_text(decode, [1, 2, 0, 1])) == ["hello", " world", " hello"]
    assert list(decode_text(decode, [2], context=[1])) == [" world"]
