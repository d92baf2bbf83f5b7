"""The losses that counting alone reaches, to stand beside every loss of a model."""

from molino.evaluation.ngrams import bigram_loss, bigram_optimum, unigram_loss
from molino.models.counting import Stream, count
from molino.models.smoothing import losses

ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0)


def floors(train: Stream, heldout: Stream, vocab_size: int, order: int | None) -> dict[str, float]:
    """Count on `train`, score on `heldout`; all in nats per token, by name.

    - unigram: add-one unigram.
    - bigram: add-alpha bigram with the best alpha of ALPHAS, chosen on `heldout`, which flatters it by a hair.
    - bigram_train: the exact optimum of a bigram table on `train` itself.
    - kneser_ney: n-grams of this order, with modified Kneser-Ney smoothing; left out where there is none.
    """
    found = {
        "unigram": unigram_loss(train, heldout, vocab_size),
        "bigram": bigram_loss(train, heldout, vocab_size, ALPHAS),
        "bigram_train": bigram_optimum(train, vocab_size),
    }
    if order is not None:
        found["kneser_ney"] = losses(count(train, vocab_size, order), heldout)[order]
    return found
