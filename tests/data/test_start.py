"""Where a text starts, and which tokens never come out."""

import pytest
import tokenizers
from tokenizers.models import BPE

from molino.data.start import forbidden_tokens, start_token
from molino.data.tokenizers import Tokenizer, train_bpe, train_char, train_whitespace, train_word

TEXT = "One line.\nAnother one.\n"
UNKNOWN, PADDING, END = 0, 1, 2
KINDS = {
    "char": train_char([TEXT]),
    "bpe": train_bpe([TEXT], 300),
    "whitespace": train_whitespace([TEXT]),
    "word": train_word([TEXT]),
}


@pytest.mark.parametrize("tokenizer", KINDS.values(), ids=KINDS)
def test_documents_start_after_the_mark_that_ends_one(tokenizer):
    assert start_token(tokenizer, documents=True) == END


@pytest.mark.parametrize(("kind", "token"), [("char", "\n"), ("bpe", "Ċ"), ("whitespace", "<eos>"), ("word", ".")])
def test_a_continuous_text_starts_after_a_line_or_a_sentence(kind, token):
    id = start_token(KINDS[kind], documents=False)
    assert KINDS[kind].token(id) == token and id in KINDS[kind].encode(TEXT)


def test_failing_that_a_text_starts_after_the_first_ordinary_token():
    assert start_token(train_char(["xyz"]), documents=False) == 3
    assert start_token(train_word(["wordless"]), documents=False) == 3


def test_a_full_stop_stands_in_for_a_line_end():
    tokenizer = train_char(["a.b"])
    assert tokenizer.token(start_token(tokenizer, documents=False)) == "."


def test_a_tokenizer_without_special_tokens():
    tokenizer = Tokenizer(tokenizers.Tokenizer(BPE({"a": 0, "b": 1}, [])))
    assert start_token(tokenizer, documents=True) == 0
    assert forbidden_tokens(tokenizer, 0, 4) == [2, 3]


@pytest.mark.parametrize("tokenizer", KINDS.values(), ids=KINDS)
def test_the_end_of_text_comes_out_only_where_the_model_has_seen_it(tokenizer):
    seen, unseen = start_token(tokenizer, documents=True), start_token(tokenizer, documents=False)
    assert forbidden_tokens(tokenizer, seen, tokenizer.size) == [UNKNOWN, PADDING]
    assert forbidden_tokens(tokenizer, unseen, tokenizer.size) == [UNKNOWN, PADDING, END]
