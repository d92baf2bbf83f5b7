"""A tokenizer: any `tokenizers.Tokenizer` of the library of that name, in molino's clothes."""

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from molino.data.text import Text
from molino.data.tokenizers import Tokenizer


def train_bytes(texts: Iterable[Text]) -> Tokenizer:
    """One token a byte of UTF-8: 256 of them, whatever the text."""
    vocabulary = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)
