"""What a language model has to beat: n-grams of tokens, and programs that compress files."""

from collections.abc import Callable, Mapping
from typing import Any

from molino.base.console import say
from molino.data.counts import LIMIT, best_order, stream
from molino.data.text import Text, strings
from molino.data.tokens import TokenizedCorpus
from molino.evaluation.compressors import compressed_bits
from molino.evaluation.floors import floors
from molino.runs.measures import Floor

# Of fewer tokens there is no last tenth to choose an order by.
FEWEST = 20
# Compressing programs read the end of the training split and the beginning of another, so many characters of each.
COMPRESSED = 4_000_000
COMMANDS = {"gzip": "gzip -9", "bzip2": "bzip2 -9", "xz": "xz -9"}


def floors_of_text(text: TokenizedCorpus, split: str, figures: Callable[[float], Mapping[str, float]]) -> list[Floor]:
    """Return the floors of a split, counted on the training split.

    Scored on what was counted, n-grams recite: of the training split itself only what is exact is told. A corpus of
    known entropy adds `floor/source`, the loss that no model can be below for long.

    Args:
        figures: all metrics, by name, that a loss in nats a token amounts to.
    """
    train, heldout, V = text.splits["train"], text.splits[split], text.tokenizer.size
    order = None
    if split != "train":
        if len(train.tokens) < FEWEST:
            say(f"the train split has {len(train.tokens)} tokens, too few to choose an n-gram floor by: it is left out")
        else:
            order = best_order(text)
    found = floors(*(stream(each, V, LIMIT) for each in (train, heldout)), V, order)

    def floor(name: str, title: str, brief: str, loss: float, **more: Any) -> Floor:
        return Floor(f"floor/{name}", loss, title, brief, dict(figures(loss)), **more)

    told = [floor("unigram", "unigram floor", "unigram", found["unigram"])]
    if split != "train":
        told.append(floor("bigram", "bigram floor", "bigram", found["bigram"]))
    told.append(Floor("floor/bigram_train", found["bigram_train"], "bigram optimum on train", "bigram on train"))
    if order is not None:
        said = {"remark": f", order {order}", "facts": {"floor/kneser_ney_order": order}}
        told.append(floor("kneser_ney", "Kneser-Ney floor", f"{order}-gram", found["kneser_ney"], **said))
    if split != "train":
        told += _compressed(text, split)
    entropy = getattr(text.corpus, "entropy_per_character", None)
    if entropy is not None:
        loss = entropy * heldout.characters / len(heldout.tokens)
        told.append(floor("source", "true entropy", "source", loss, beatable=False))
    return told


def _compressed(text: TokenizedCorpus, split: str) -> list[Floor]:
    texts = text.corpus.read()
    before, after = (_some(texts["train"], last=True), _some(texts[split]))
    return [
        Floor(f"floor/{name}", bits, COMMANDS[name], name, {"bits_per_byte": bits}, " bits per byte")
        for name, bits in compressed_bits(before, after).items()
    ]


def _some(texts: list[Text], last: bool = False) -> bytes:
    """Return the first characters of some texts, or the last, each text with a line end behind it."""
    pieces, room = [], COMPRESSED
    for each in reversed(texts) if last else texts:
        piece = "".join(strings(each[max(len(each) - room, 0) :] if last else each[:room])) + "\n"
        pieces.append(piece)
        room -= len(piece)
        if room <= 0:
            break
    return "".join(reversed(pieces) if last else pieces).encode("utf-8", "surrogatepass")
