"""Tokens that become text while they come."""

from collections.abc import Callable, Iterable, Iterator, Sequence


class TextStream:
    """The text of tokens, piece by piece as it becomes readable.

    A character whose UTF-8 bytes are spread over several tokens is held back until its last byte, or the end of the
    stream, has come. The pieces joined are the text that `decode` makes of all tokens after that of `context`.

    Args:
        decode: a tokenizer's decoding of a list of ids, which shows incomplete bytes as U+FFFD.
        context: the tokens before the stream (the prompt's), so that the first piece joins them with the right spaces.
    """

    def __init__(self, decode: Callable[[list[int]], str], context: Sequence[int] = ()):
        # Decoders look at neighbours (a space between words), so a piece is what it adds to the text of the one before.
        self.decode, self.shown, self.pending = decode, list(context), []

    def push(self, token: int) -> str:
        """Return what a further token makes readable; mostly its own text, sometimes nothing."""
        self.pending.append(token)
        piece = self._piece()
        if not piece or piece.endswith("\ufffd"):
            return ""
        self.shown, self.pending = self.pending, []
        return piece

    def hold(self, token: int) -> None:
        """Take a further token whose text can wait."""
        self.pending.append(token)

    def end(self) -> str:
        """Return what is left when no token comes any more."""
        return self._piece() if self.pending else ""

    def _piece(self) -> str:
        return self.decode(self.shown + self.pending)[len(self.decode(self.shown)) :]


def decode_text(
    decode: Callable[[list[int]], str], tokens: Iterable[int], context: Sequence[int] = ()
) -> Iterator[str]:
    """Yield the text of a stream of tokens, piece by piece; see TextStream."""
    stream = TextStream(decode, context)
    for token in tokens:
        if piece := stream.push(token):
            yield piece
    if piece := stream.end():
        yield piece
