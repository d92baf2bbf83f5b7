"""Tokenizers that exist: a tokenizer.json, a Hugging Face folder or hub id, older files of vocabulary and merges."""

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from molino.base.errors import DataError
from molino.data.text import Text
from molino.data.tokenizers import END_OF_TEXT, Tokenizer
from molino.hub.read import find_folder

END_OF_WORD = "</w>"  # how GPT-1's vocabulary marks the last piece of a word


def load_pretrained(texts: Iterable[Text], path: str) -> Tokenizer:
    """Return an existing tokenizer, in the form of the functions that train one. The texts play no part.

    Args:
        path: a tokenizer.json, a folder, or a hub id.

    Raises:
        DataError: it is missing or damaged.
    """
    file = Path(path).expanduser()
    if file.is_file() or file.suffix == ".json":
        return Tokenizer.load(file)
    return load_tokenizer(find_folder(path))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder: tokenizer.json, or vocab.json with merges.txt as GPT-1 and GPT-2 had them.

    Raises:
        DataError: there is none, or it is damaged.
    """
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder / "tokenizer.json")
    if not (vocabulary.is_file() and merges.is_file()):
        raise DataError(f"there is neither {folder / 'tokenizer.json'} nor vocab.json with merges.txt beside it")
    try:
        known, pairs = models.BPE.read_file(str(vocabulary), str(merges))
    except Exception as error:  # The library raises bare Exception for whatever it cannot read.
        raise DataError(f"{vocabulary} or {merges} is damaged ({error})") from error
    words = any(token.endswith(END_OF_WORD) for token in known)
    return Tokenizer(_gpt1(known, pairs) if words else _gpt2(known, pairs))


def _gpt2(known: dict[str, int], pairs: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """Bytes merged to pieces of words (Radford et al. 2019)."""
    backend = tokenizers.Tokenizer(models.BPE(known, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([token for token in END_OF_TEXT if token in known])
    return backend


def _gpt1(known: dict[str, int], pairs: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """Characters merged to pieces of lower-cased words (Radford et al. 2018), as `transformers` reads these files."""
    backend = tokenizers.Tokenizer(models.BPE(known, pairs, unk_token="<unk>", end_of_word_suffix=END_OF_WORD))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix=END_OF_WORD)
    if "<unk>" in known:
        backend.add_special_tokens(["<unk>"])
    return backend
