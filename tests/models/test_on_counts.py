"""A network on counts: what it begins as, what it is told, and that nothing looks ahead."""

import pytest
import torch
from families import V, counted, make, random_tokens
from torch.nn import functional as F

from molino.models import head, on_counts
from molino.models.gpt import GPT
from molino.models.on_counts import OnCounts


def fresh(**settings):
    torch.manual_seed(0)
    network = OnCounts(GPT(V, 12, 1, 2, 16, **settings)).eval()
    network.tables = network.parts = counted()
    return network


@pytest.mark.parametrize("many", [False, True])
def test_it_begins_as_counting_and_every_part_learns(many, monkeypatch):
    if many:
        monkeypatch.setattr(on_counts, "LARGE_VOCABULARY", 2)
    network = fresh()
    assert network.told.matrix.weight.shape == ((16, 16) if many else (16, V))
    tokens_BT = random_tokens(3, 12)
    log_p_BTV = network.tables.read(tokens_BT)
    torch.testing.assert_close(network(tokens_BT), log_p_BTV)
    contexts_BT = network.tables.find(tokens_BT, 12)
    targets_BT = tokens_BT.roll(-1, 1)
    loss = network.loss(tokens_BT, targets_BT, contexts_BT)
    assert loss.item() == pytest.approx(F.nll_loss(log_p_BTV.flatten(0, 1), targets_BT.flatten()).item(), rel=1e-6)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network.loss(tokens_BT, targets_BT, contexts_BT).backward()
        optimizer.step()
    # What was zero before hides others for a step or two, but none for ever.
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    assert network.loss(tokens_BT, targets_BT, contexts_BT) < loss


@pytest.mark.parametrize("large", [False, True])
def test_the_loss_is_that_of_the_logits_at_once(large, monkeypatch):
    """With a large vocabulary it is made piece by piece, of two rows each here, and so is what counting tells."""
    network = fresh()
    network.double()
    if large:
        network = with_large_vocabulary(network, monkeypatch)
    tokens_BT = random_tokens(3, 12)
    targets_BT, contexts_BT = tokens_BT.roll(-1, 1), network.tables.find(tokens_BT, 12)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    logits_BTV = network(tokens_BT)
    expected = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
    loss = network.loss(tokens_BT, targets_BT, contexts_BT)
    torch.testing.assert_close(loss, expected)
    learnt = list(network.parameters())
    for ours, theirs in zip(torch.autograd.grad(loss, learnt), torch.autograd.grad(expected, learnt), strict=True):
        torch.testing.assert_close(ours, theirs)


def with_large_vocabulary(network, monkeypatch):
    for module in (on_counts, head):
        monkeypatch.setattr(module, "LARGE_VOCABULARY", 2)
    monkeypatch.setitem(head.PIECE, "cpu", 2 * V)
    large = OnCounts(network.model).double()
    large.tables = large.parts = network.tables
    return large


@pytest.mark.parametrize("name", ["gpt on counts", "llama-ngrams on counts", "bigram on counts"])
def test_nothing_looks_ahead(name):
    network, tokens_BT = make(name, 12), random_tokens(2, 12)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 7:] = random_tokens(2, 5, seed=9)
    torch.testing.assert_close(network(changed_BT)[:, :7], network(tokens_BT)[:, :7])


def test_rows_to_spare_are_never_likely():
    torch.manual_seed(0)
    network = OnCounts(GPT(V + 5, 12, 1, 2, 16)).eval()
    network.tables = counted()
    p_BTV = network(random_tokens(1, 8)).softmax(-1)
    assert p_BTV[..., V:].max() < 1e-9
