"""Special tokens of a task behind those of a tokenizer, and where each text of a corpus lies among the tokens."""

import functools

import numpy as np
import pytest
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from molino.base.errors import DataError
from molino.data.corpus import digest
from molino.data.fast_encoders import CharEncoder, LibraryEncoder, WordEncoder
from molino.data.tokenizers import Tokenizer, train_bpe, train_char, train_whitespace, train_word
from molino.data.tokens import prepare, prepare_tokens

NAMES = ("<start>", "<delimiter>", "<extract>")
TEXTS = ["En un lugar de la Mancha,", "de cuyo nombre no quiero", "acordarme", "ñandú 😀"]
# Their names in a text are text like any other.
NAMING = [*TEXTS, "de <start> la", "<delimiter>", "la<extract>"]
KINDS = {
    "char": (train_char, CharEncoder),
    "word": (train_word, WordEncoder),
    "whitespace": (functools.partial(train_whitespace, end_of_line=None), WordEncoder),
    "lines": (train_whitespace, WordEncoder),
    "bpe": (functools.partial(train_bpe, size=280), LibraryEncoder),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_task_stand_behind_those_of_the_tokenizer(kind):
    train, encoder = KINDS[kind]
    plain = train(TEXTS)
    before, more = plain.json(), plain.extended(NAMES)
    assert plain.json() == before  # it is not changed in place
    assert [more.backend.token_to_id(name) for name in NAMES] == [plain.size + i for i in range(3)]
    assert more.size == plain.size + 3 and [more.token(i) for i in range(plain.size)] == [
        plain.token(i) for i in range(plain.size)
    ]
    specials = ("unknown_id", "padding_id", "end_of_text_id")
    assert [getattr(more, name) for name in specials] == [getattr(plain, name) for name in specials]
    # Texts are read alike, and as fast as before.
    assert type(more._encoder) is type(plain._encoder) is encoder
    assert getattr(more._encoder, "cuttable", True) and getattr(plain._encoder, "cuttable", True)
    for text in NAMING:
        assert more.encode(text).tolist() == plain.encode(text).tolist()
        assert more.encode(text).max() < plain.size
        assert more.backend.encode(text, add_special_tokens=False).ids == plain.encode(text).tolist()
    assert more.decode(more.encode(NAMING[-1])) == plain.decode(plain.encode(NAMING[-1]))
    assert NAMES[0] in more.decode([plain.size, *more.encode("de")])


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_that_has_them_stays_itself(kind, tmp_path):
    more = KINDS[kind][0](TEXTS).extended(NAMES)
    assert more.extended(NAMES) is more and more.extended(NAMES[1:]) is more
    more.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path)
    assert again.json() == more.json() and again.extended(NAMES).size == more.size
    one_by_one = KINDS[kind][0](TEXTS).extended(NAMES[:1]).extended(NAMES[1:])
    assert [one_by_one.backend.token_to_id(name) for name in NAMES] == list(range(more.size - 3, more.size))


def test_a_vocabulary_that_grows_over_two_bytes_gets_wider_ids():
    backend = tokenizers.Tokenizer(WordLevel({"<unk>": 0, **{f"w{i}": i for i in range(1, 65_535)}}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    plain = Tokenizer(backend)
    assert (plain.size, plain.dtype, plain.extended(NAMES[:1]).dtype) == (65_535, np.uint16, np.uint16)
    assert plain.extended(NAMES).dtype == np.uint32


def test_a_tokenizer_with_gaps_has_no_room():
    backend = tokenizers.Tokenizer(WordLevel({"a": 0, "b": 9}, unk_token="a"))
    with pytest.raises(DataError, match="has gaps among its ids, and no room for <start>, <delimiter>, <extract>"):
        Tokenizer(backend).extended(NAMES)


# Where each text lies


class Documents:
    name, licence = "texts", "public domain"

    def __init__(self, splits, documents=True):
        self.splits, self.documents = splits, documents

    def fingerprint(self):
        return digest(self.splits, self.documents)

    def read(self):
        return self.splits


def without_end_of_text(texts):
    """Characters with nothing that could stand between two texts."""
    alphabet = sorted({each for text in texts for piece in text for each in piece})
    backend = tokenizers.Tokenizer(
        WordLevel({each: i for i, each in enumerate(["<unk>", *alphabet])}, unk_token="<unk>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    return Tokenizer(backend)


@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize("make", [train_char, without_end_of_text, functools.partial(train_bpe, size=270)])
def test_bounds_are_where_each_text_lies(tmp_path, make, documents):
    corpus = Documents({"train": [*TEXTS, "", "x"], "val": ["de", "", "la"]}, documents)
    # A partial of one's own function is named by its file, which is this one.
    train = make if isinstance(make, functools.partial) else functools.partial(make)
    text = prepare(corpus, train, tmp_path, added=NAMES)
    assert text.tokenizer.token(text.tokenizer.size - 1) == "<extract>"
    for name, texts in corpus.splits.items():
        split = text.splits[name]
        assert split.bounds.shape == (len(texts), 2)
        assert [text.tokenizer.decode(split.tokens[begin:end]) for begin, end in split.bounds] == texts
        # Between them is nothing but marks, where there are any.
        marks = len(split.tokens) - int(np.diff(split.bounds).sum())
        assert marks == (len(texts) + 1 if documents and text.tokenizer.end_of_text_id is not None else 0)
        assert max(split.tokens) < text.tokenizer.size - 3


def test_added_tokens_are_an_entry_of_their_own_and_the_tokenizer_is_shared(tmp_path):
    corpus = Documents({"train": TEXTS, "val": ["de"]})
    plain = prepare(corpus, functools.partial(train_char), tmp_path)
    more, again = (prepare(corpus, functools.partial(train_char), tmp_path, added=NAMES) for _ in range(2))
    assert plain.digest != more.digest == again.digest and plain.sha256 == more.sha256
    assert again.tokenizer.json() == more.tokenizer.json() != plain.tokenizer.json()
    assert len(list((tmp_path / "tokenizers").glob("*.json"))) == 1
    assert prepare(corpus, functools.partial(train_char), tmp_path).tokenizer.size == plain.tokenizer.size


def test_entries_of_before_have_their_bounds_from_the_marks(tmp_path):
    corpus = Documents({"train": [*TEXTS, ""], "val": ["de"]})
    text = prepare(corpus, functools.partial(train_char), tmp_path)
    files = sorted((tmp_path / "tokens" / text.digest).glob("*.texts.npy"))
    assert [file.name for file in files] == ["train.texts.npy", "val.texts.npy"]
    for file in files:
        file.unlink()
    old = prepare_tokens(corpus, text.tokenizer, tmp_path)
    for name in ("train", "val"):
        assert old.splits[name].bounds.tolist() == text.splits[name].bounds.tolist()
