"""The projector's files: a row a token, no more than it takes."""

import torch
from torch.utils.tensorboard import SummaryWriter

from molino.inspection import projector


def test_no_more_tokens_than_the_projector_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(projector, "MOST_TOKENS", 4)
    table_VC = torch.randn(6, 3)
    with SummaryWriter(str(tmp_path)) as writer:
        projector.write_embeddings(writer, table_VC, [f"'{token}'" for token in range(5)])
    (labels,), (vectors,) = tmp_path.rglob("metadata.tsv"), tmp_path.rglob("tensors.tsv")
    assert labels.read_text().splitlines() == ["'0'", "'1'", "'2'", "'3'"]
    rows = [[float(number) for number in line.split("\t")] for line in vectors.read_text().splitlines()]
    torch.testing.assert_close(torch.tensor(rows), table_VC[:4])
