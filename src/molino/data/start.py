"""Where a text starts that nothing was given for, and what never stands in one."""

from molino.data.tokenizers import Tokenizer


def start_token(tokenizer: Tokenizer, documents: bool) -> int:
    """Return the token before a text's first: <|endoftext|> where the corpus has documents, else the end of a line.

    A continuous text was never marked, so <|endoftext|> would be a token the model has not seen there. Where the
    tokenizer knows no line end either, a full stop, and failing that the first ordinary token.
    """
    if documents and tokenizer.end_of_text_id is not None:
        return tokenizer.end_of_text_id
    for text in ("\n", "."):
        ids = tokenizer.encode(text)
        if len(ids) and ids[-1] != tokenizer.unknown_id:
            return int(ids[-1])
    specials = (tokenizer.unknown_id, tokenizer.padding_id, tokenizer.end_of_text_id)
    return next(id for id in range(tokenizer.size) if id not in specials)


def forbidden_tokens(tokenizer: Tokenizer, start_id: int, vocab_size: int) -> list[int]:
    """Return the tokens that are never sampled: <unk>, <pad>, <|endoftext|> where no text of the corpus had it, and
    what a model of `vocab_size` tokens knows beyond those of the tokenizer."""
    forbidden = [tokenizer.unknown_id, tokenizer.padding_id]
    if start_id != tokenizer.end_of_text_id:
        forbidden.append(tokenizer.end_of_text_id)
    return [*(id for id in forbidden if id is not None), *range(tokenizer.size, vocab_size)]
