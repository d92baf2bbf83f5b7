"""The loss of a large vocabulary, piece by piece: the same loss and gradients as all logits at once."""

import pytest
import torch
from torch.nn import functional as F

from molino.models import IGNORE_INDEX, head
from molino.models.gpt import GPT
from molino.models.head import LARGE_VOCABULARY, head_loss, head_losses

V, C = LARGE_VOCABULARY + 17, 12


def example(dtype=torch.float64, ignored=3):
    torch.manual_seed(0)
    x_BTC = torch.randn(3, 7, C, dtype=dtype, requires_grad=True)
    weight_VC = torch.randn(V, C, dtype=dtype, requires_grad=True)
    targets_BT = torch.randint(0, V, (3, 7))
    targets_BT.view(-1)[:ignored] = IGNORE_INDEX
    return x_BTC, weight_VC, targets_BT


def reference(x_BTC, weight_VC, targets_BT):
    return F.cross_entropy((x_BTC @ weight_VC.T).flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORE_INDEX)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Five rows a piece, so that 21 rows are no whole number of pieces."""
    monkeypatch.setitem(head.PIECE, "cpu", 5 * V)


def gradients(loss, *inputs):
    # As one term among others, scaled: backward has to heed what it is told.
    return torch.autograd.grad(3.0 * loss, inputs)


@pytest.mark.parametrize("ignored", [0, 3, 20])
def test_loss_and_gradients_are_those_of_all_logits_at_once(ignored):
    x_BTC, weight_VC, targets_BT = example(ignored=ignored)
    logits = (x_BTC @ weight_VC.T).flatten(0, 1)
    expected = F.cross_entropy(logits, targets_BT.flatten(), ignore_index=IGNORE_INDEX)
    loss = head_loss(x_BTC, weight_VC, targets_BT)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(gradients(loss, x_BTC, weight_VC), gradients(expected, x_BTC, weight_VC), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("vocabulary", [V, 17])
@pytest.mark.parametrize("single", [False, True])
def test_what_is_added_counts_and_its_scale_is_learnt(vocabulary, single):
    x_BTC, weight_VC, targets_BT = example()
    weight_VC, targets_BT = weight_VC[:vocabulary].detach().requires_grad_(), targets_BT.clamp(max=vocabulary - 1)
    added_BTV = torch.randn(3, 7, vocabulary, dtype=torch.float64)
    scale = torch.randn(() if single else (3, 7, 1), dtype=torch.float64, requires_grad=True)
    logits = (x_BTC @ weight_VC.T + scale * added_BTV).flatten(0, 1)
    expected = F.cross_entropy(logits, targets_BT.flatten(), ignore_index=IGNORE_INDEX)
    loss = head_loss(x_BTC, weight_VC, targets_BT, scale, added_BTV)
    torch.testing.assert_close(loss, expected)
    learnt = (x_BTC, weight_VC, scale)
    for ours, theirs in zip(gradients(loss, *learnt), gradients(expected, *learnt), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("added", [False, True])
def test_without_gradients_it_is_the_same_loss(added, monkeypatch):
    x_BTC, weight_VC, targets_BT = example()
    more = (torch.randn(3, 7, 1, dtype=torch.float64), torch.randn(3, 7, V, dtype=torch.float64)) if added else ()
    expected = head_loss(x_BTC, weight_VC, targets_BT, *more)
    monkeypatch.setattr(head, "_HeadLoss", None)  # which makes gradients
    with torch.no_grad():
        torch.testing.assert_close(head_loss(x_BTC, weight_VC, targets_BT, *more), expected.detach())


def test_smoothed_labels_are_those_of_torch():
    x_BTC, weight_VC, targets_BT = example()
    smoothed, plain = head_losses(x_BTC, weight_VC, targets_BT, 0.1)
    logits_NV = (x_BTC @ weight_VC.T).flatten(0, 1)
    expected = F.cross_entropy(logits_NV, targets_BT.flatten(), ignore_index=IGNORE_INDEX, label_smoothing=0.1)
    torch.testing.assert_close(smoothed, expected)
    torch.testing.assert_close(plain, head_loss(x_BTC, weight_VC, targets_BT))
    assert not plain.requires_grad
    for ours, theirs in zip(
        torch.autograd.grad(smoothed, (x_BTC, weight_VC)),
        torch.autograd.grad(expected, (x_BTC, weight_VC)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    without = head_losses(x_BTC.detach(), weight_VC.detach(), targets_BT, 0.1)
    torch.testing.assert_close(without[1], plain)


def test_gradients_are_the_slopes():
    x_BTC, weight_VC, targets_BT = example()
    assert torch.autograd.gradcheck(lambda x: head_loss(x, weight_VC.detach(), targets_BT), (x_BTC,))


def test_without_a_target_the_loss_is_nan_as_torch_has_it():
    x_BTC, weight_VC, targets_BT = example()
    nothing = torch.full_like(targets_BT, IGNORE_INDEX)
    assert torch.isnan(head_loss(x_BTC, weight_VC, nothing)) and torch.isnan(reference(x_BTC, weight_VC, nothing))


def test_in_bfloat16_it_is_as_exact_as_torch():
    x_BTC, weight_VC, targets_BT = example(torch.float32)
    exact = reference(x_BTC, weight_VC, targets_BT)
    exact_gradients = gradients(exact, x_BTC, weight_VC)
    with torch.autocast("cpu", torch.bfloat16):
        ours = head_loss(x_BTC, weight_VC, targets_BT)
        theirs = F.cross_entropy(F.linear(x_BTC, weight_VC).flatten(0, 1).float(), targets_BT.flatten())
    assert ours.dtype == torch.float32 and ours.item() == pytest.approx(exact.item(), rel=1e-2)
    for mine, other, true in zip(
        gradients(ours, x_BTC, weight_VC), gradients(theirs, x_BTC, weight_VC), exact_gradients, strict=True
    ):
        assert mine.dtype == torch.float32
        assert (mine - true).norm() <= 1.2 * (other - true).norm() + 1e-6


def test_large_logits_do_not_overflow():
    x_BTC, weight_VC, targets_BT = example(torch.float32)
    big = 300 * x_BTC.detach()
    loss = head_loss(big, weight_VC, targets_BT)
    torch.testing.assert_close(loss, reference(big, weight_VC, targets_BT))
    assert loss > 100


def test_a_model_of_a_large_vocabulary_uses_it_and_learns_tied_weights():
    torch.manual_seed(0)
    model = GPT(V, block_size=8, n_layer=1, n_head=2, n_embd=C)
    tokens_BT, targets_BT = torch.randint(0, V, (2, 8)), torch.randint(0, V, (2, 8))
    loss = model.loss(tokens_BT, targets_BT)
    assert "_HeadLoss" in loss.grad_fn.next_functions[0][0].name() or "_HeadLoss" in loss.grad_fn.name()
    expected = F.cross_entropy(model(tokens_BT).flatten(0, 1), targets_BT.flatten())
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(
        torch.autograd.grad(loss, model.parameters()), torch.autograd.grad(expected, model.parameters()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_functional_gradients_work():
    x_BTC, weight_VC, targets_BT = example()
    ours = torch.func.grad(lambda w: head_loss(x_BTC.detach(), w, targets_BT))(weight_VC.detach())
    (theirs,) = torch.autograd.grad(reference(x_BTC, weight_VC, targets_BT), weight_VC)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    stacked = torch.stack([weight_VC.detach(), 2 * weight_VC.detach()])
    losses = torch.vmap(lambda w: head_loss(x_BTC.detach(), w, targets_BT))(stacked)
    torch.testing.assert_close(losses, torch.stack([head_loss(x_BTC.detach(), w, targets_BT) for w in stacked]))


def test_it_takes_a_fraction_of_the_memory():
    """Counted in what autograd keeps: nothing of the size of the logits."""
    x_BTC, weight_VC, targets_BT = example(torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        head_loss(x_BTC, weight_VC, targets_BT)
    assert max(kept) == weight_VC.numel() < targets_BT.numel() * V


def test_the_scale_of_the_loss_saves_small_gradients_in_fp16(monkeypatch):
    """As with fp16's scaled loss: divided by the count first, they would fall below what fp16 holds."""
    monkeypatch.setitem(head.PIECE, "cpu", 2**23)
    torch.manual_seed(0)
    x_NC, weight_VC = torch.randn(4096, C), torch.randn(V, C) * 0.3
    targets_N = torch.randint(0, V, (4096,))
    exact_NC = x_NC.clone().requires_grad_()
    (65536 * F.cross_entropy(exact_NC @ weight_VC.T, targets_N)).backward()
    half_NC = x_NC.half().requires_grad_()
    (65536 * head._HeadLoss.apply(half_NC, weight_VC.half(), targets_N, 1024, None, None, 0.0)[0]).backward()
    assert (half_NC.grad.float() - exact_NC.grad).norm() < 2e-3 * exact_NC.grad.norm()
