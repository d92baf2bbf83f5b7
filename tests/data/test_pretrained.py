"""Tokenizers that exist, against `transformers` reading the same files."""

import json

import pytest
import tokenizers
import transformers

from molino.base.errors import DataError
from molino.data.pretrained import load_pretrained, load_tokenizer
from molino.data.tokenizers import train_bpe

TEXT = "The lower newest widest river, the newer rivers; lower still! It's 1605: año.\n\nA new line  here." * 3


def write_gpt2(folder):
    """vocab.json and merges.txt as GPT-2's were: byte-level BPE with <|endoftext|>."""
    backend = tokenizers.Tokenizer.from_str(train_bpe([TEXT], 300).json())
    backend.model.save(str(folder))


def write_gpt1(folder):
    """As GPT-1's were: pieces of lower-cased words, the last of which ends in </w>."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    backend.model.save(str(folder))


@pytest.mark.parametrize(
    ("write", "theirs"), [(write_gpt2, transformers.GPT2Tokenizer), (write_gpt1, transformers.OpenAIGPTTokenizer)]
)
def test_older_files_are_read_as_transformers_does(write, theirs, tmp_path):
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    ours, reference = load_tokenizer(tmp_path), theirs.from_pretrained(tmp_path)
    text = TEXT + "unseen words, Ünïcode"
    ids = ours.encode(text).tolist()
    assert ids == reference.encode(text, add_special_tokens=False) and len(set(ids)) > 20
    assert ours.decode(ids) == reference.decode(ids, clean_up_tokenization_spaces=False)
    assert load_pretrained([], str(tmp_path)).encode(text).tolist() == ids


def test_gpt2_knows_its_end_of_text(tmp_path):
    write_gpt2(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.token(tokenizer.end_of_text_id) == "<|endoftext|>"
    assert tokenizer.end_of_text_id not in tokenizer.encode("a<|endoftext|>")


def test_a_tokenizer_json_comes_first(tmp_path):
    write_gpt1(tmp_path)
    train_bpe([TEXT], 280).save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path).size == 280


@pytest.mark.parametrize("template", [None, "<s> $A", "$A <s>", "<s> $A <s>"])
def test_what_a_template_puts_before_a_text(template, tmp_path):
    backend = tokenizers.Tokenizer.from_str(train_bpe([TEXT], 280).json())
    backend.add_special_tokens(["<s>"])
    if template:
        id = backend.token_to_id("<s>")
        backend.post_processor = tokenizers.processors.TemplateProcessing(template, special_tokens=[("<s>", id)])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    # A mark behind the text would be no place to go on from.
    assert tokenizer.prefix() == ((280,) if template == "<s> $A" else ())
    assert 280 not in tokenizer.encode("a text")


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(DataError, match=r"there is neither .*tokenizer\.json nor vocab\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", json.dumps([1])])
def test_damaged_older_files(content, tmp_path):
    write_gpt2(tmp_path)
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(DataError, match=r"vocab\.json or .*merges\.txt is damaged"):
        load_tokenizer(tmp_path)
