"""What counting tells of a hidden token: how frequent tokens are, and which stand between two neighbours.

Shapes: M hidden tokens, V vocabulary.
"""

import numpy as np

from molino.data.tokens import TokenizedCorpus
from molino.runs.measures import Floor
from molino.tasks.figures import perplexity

ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0)  # pseudo-counts of every pair; the best is taken
ROOM = 2**24  # numbers that are computed at a time


def floors_of_masks(text: TokenizedCorpus, split: str, places_M: np.ndarray) -> list[Floor]:
    """Return the floors of hidden tokens, counted on the training split.

    Of a token between l and r a bigram model knows P(w | l, r), which is in proportion to P(w | l) P(r | w). A
    neighbour that is hidden as well tells nothing: then the other one alone does, or how frequent tokens are.

    Args:
        places_M: where the hidden tokens stand in the split.
    """
    train, tokens, V = text.splits["train"].tokens.astype(np.int64), text.splits[split].tokens, text.tokenizer.size
    count_V = np.bincount(train, minlength=V)
    wanted_M = tokens[places_M].astype(np.int64)
    p_V = (count_V + 1) / (len(train) + V)
    loss = float(-np.log(p_V[wanted_M]).mean())
    found = [_floor("unigram", "unigram floor", "unigram", loss, float((wanted_M == count_V.argmax()).mean()))]
    hidden = np.zeros(len(tokens) + 2, bool)
    hidden[places_M + 1] = True
    # Beyond the ends nothing is known either.
    hidden[[0, -1]] = True
    neighbours = np.concatenate([[0], tokens, [0]]).astype(np.int64)
    left_M = np.where(hidden[places_M], -1, neighbours[places_M])
    right_M = np.where(hidden[places_M + 2], -1, neighbours[places_M + 2])
    loss, accuracy = min(_between(train, count_V, left_M, right_M, wanted_M, alpha) for alpha in ALPHAS)
    return [*found, _floor("neighbours", "neighbours floor", "neighbours", loss, accuracy)]


def _between(
    train: np.ndarray, count_V: np.ndarray, left_M: np.ndarray, right_M: np.ndarray, wanted_M: np.ndarray, alpha: float
) -> tuple[float, float]:
    """Return mean loss and accuracy of what a bigram model with this pseudo-count tells from both neighbours."""
    from scipy import sparse

    V = len(count_V)
    pairs = sparse.coo_matrix((np.ones(len(train) - 1), (train[:-1], train[1:])), (V, V))
    after, before = pairs.tocsr(), pairs.T.tocsr()
    followed_V = np.bincount(train[:-1], minlength=V) + alpha * V
    log_p_V = np.log((count_V + 1) / (len(train) + V))
    loss, right = 0.0, 0
    rows = max(ROOM // V, 1)
    for at in range(0, len(wanted_M), rows):
        left, right_of, wanted = (each[at : at + rows] for each in (left_M, right_M, wanted_M))
        told = np.tile(log_p_V, (len(wanted), 1))
        known = left >= 0
        told[known] = np.log((after[left[known]].toarray() + alpha) / followed_V[left[known]][:, None])
        known = right_of >= 0
        told[known] += np.log((before[right_of[known]].toarray() + alpha) / followed_V)
        most = told.max(axis=1, keepdims=True)
        total = most[:, 0] + np.log(np.exp(told - most).sum(axis=1))
        loss += float((total - told[np.arange(len(wanted)), wanted]).sum())
        right += int((told.argmax(axis=1) == wanted).sum())
    return loss / max(len(wanted_M), 1), right / max(len(wanted_M), 1)


def _floor(name: str, title: str, brief: str, loss: float, accuracy: float) -> Floor:
    figures = {"loss": loss, "perplexity": perplexity(loss), "accuracy": accuracy}
    return Floor(f"floor/{name}", loss, title, brief, figures)
