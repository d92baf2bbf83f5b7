"""Token embeddings for TensorBoard's projector, where their neighbours can be looked at in three dimensions."""

from typing import Any

from torch import Tensor

MOST_TOKENS = 10_000  # the projector, which runs in a browser, takes no more with ease


def write_embeddings(writer: Any, table_VC: Tensor, labels: list[str]) -> None:
    """Write the embeddings of the first MOST_TOKENS tokens.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`.
        labels: one a token, without tabs and newlines, which separate the labels in the file; only as many as there
            are labels are written.
    """
    count = min(MOST_TOKENS, len(labels), len(table_VC))
    writer.add_embedding(table_VC[:count].detach().float().cpu(), metadata=labels[:count], tag="tokens")
