"""The encoder-decoder against torch's own, and what its masks and its cache promise."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models import IGNORE_INDEX
from molino.models.attention import choose_path
from molino.models.cache import KVCache
from molino.models.capabilities import Capabilities
from molino.models.transformer import Transformer
from molino.models.with_head import WithHead
from molino.tasks.outcomes import cross_entropy

V, W, BLOCK_SIZE, C = 23, 19, 12, 16
KINDS = {
    "as published": {},
    "pre-norm": {"norm": "pre", "activation": "gelu"},
    "apart": {"share_tables": False, "source_vocab_size": W, "positions": "learned"},
    "untied": {"tie_weights": False, "share_tables": False, "scale_embeddings": False},
    "head with a bias": {"head_bias": True, "positions": "sinusoidal_halves", "activation": "silu"},
}


def transformer(**settings) -> Transformer:
    """A small one in eval mode whose outputs are far from uniform."""
    torch.manual_seed(0)
    model = Transformer(V, BLOCK_SIZE, n_layer=2, n_head=4, n_embd=C, n_inner=24, **settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def some_tokens(*shape: int, seed: int = 1, size: int = W) -> torch.Tensor:
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(seed))


def seen_of(*lengths: int) -> torch.Tensor:
    return torch.arange(BLOCK_SIZE) < torch.tensor(lengths)[:, None]


def theirs(model: Transformer, pre_norm: bool, activation: str) -> nn.Transformer:
    """torch's transformer with the same tensors; of post-norm blocks it would norm the last one twice."""
    other = nn.Transformer(C, 4, 2, 2, 24, 0.0, activation, batch_first=True, norm_first=pre_norm).eval()
    stored = {}
    for stack, name in ((model.encoder, "encoder"), (model.decoder, "decoder")):
        if pre_norm:
            stored |= {f"{name}.norm.{kind}": getattr(stack.ln_f, kind) for kind in ("weight", "bias")}
        else:
            getattr(other, name).norm = None
        for number, block in enumerate(stack.h):
            parts = {"self_attn.out_proj": block.attn.c_proj, "linear1": block.mlp.c_fc, "linear2": block.mlp.c_proj}
            norms = [block.ln_1, block.ln_2] + ([block.ln_3] if name == "decoder" else [])
            parts |= {f"norm{at}": norm for at, norm in enumerate(norms, start=1)}
            if name == "decoder":
                parts["multihead_attn.out_proj"] = block.cross.c_proj
            for kind in ("weight", "bias"):
                layer = f"{name}.layers.{number}"
                stored |= {f"{layer}.{part}.{kind}": getattr(module, kind) for part, module in parts.items()}
                stored[f"{layer}.self_attn.in_proj_{kind}"] = getattr(block.attn.c_attn, kind)
                if name == "decoder":
                    cross = [getattr(each, kind) for each in (block.cross.c_q, block.cross.c_kv)]
                    stored[f"{layer}.multihead_attn.in_proj_{kind}"] = torch.cat(cross)
    other.load_state_dict(stored)
    return other


@pytest.mark.parametrize(("norm", "activation"), [("post", "relu"), ("pre", "gelu")])
def test_forward_and_gradients_are_those_of_torch(norm, activation):
    model = transformer(norm=norm, activation=activation)
    other = theirs(model, norm == "pre", activation)
    source_BS, tokens_BT, seen_BS = some_tokens(3, BLOCK_SIZE), some_tokens(3, 7, seed=2), seen_of(12, 5, 1)
    x_BSC = (model.decoder.wte(source_BS) * C**0.5 + model.encoder.wpe.table).detach()
    y_BTC = (model.decoder.wte(tokens_BT) * C**0.5 + model.decoder.wpe.table[:7]).detach()
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    hidden_BTC = other(x_BSC, y_BTC, tgt_mask=causal, src_key_padding_mask=~seen_BS, memory_key_padding_mask=~seen_BS)
    memory = model.remember(model.encode(source_BS, seen_BS), seen_BS)
    ours_BTC = model.decode(tokens_BT, memory)
    torch.testing.assert_close(ours_BTC, hidden_BTC, rtol=1e-4, atol=1e-5)

    picked_BTC = torch.randn(hidden_BTC.shape, generator=torch.Generator().manual_seed(3))
    (ours_BTC * picked_BTC).sum().backward()
    (hidden_BTC * picked_BTC).sum().backward()
    for name in ("encoder", "decoder"):
        for own, layer in zip(getattr(model, name).h, getattr(other, name).layers, strict=True):
            torch.testing.assert_close(
                own.attn.c_attn.weight.grad, layer.self_attn.in_proj_weight.grad, rtol=1e-3, atol=1e-4
            )
            torch.testing.assert_close(own.mlp.c_proj.weight.grad, layer.linear2.weight.grad, rtol=1e-3, atol=1e-4)
    for own, layer in zip(model.decoder.h, other.decoder.layers, strict=True):
        cross = torch.cat([own.cross.c_q.weight.grad, own.cross.c_kv.weight.grad])
        torch.testing.assert_close(cross, layer.multihead_attn.in_proj_weight.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_padding_of_sources_changes_nothing(settings):
    model = transformer(**settings)
    tokens_BT = some_tokens(3, 6, seed=2)
    source_BS, seen_BS = some_tokens(3, BLOCK_SIZE), seen_of(12, 5, 1)
    logits_BTV = model(tokens_BT, source_BS, seen_BS)
    for row, length in enumerate((12, 5, 1)):
        alone = model(tokens_BT[row : row + 1], source_BS[row : row + 1, :length])
        torch.testing.assert_close(logits_BTV[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    other = torch.where(seen_BS, source_BS, (source_BS + 1) % W)
    torch.testing.assert_close(model(tokens_BT, other, seen_BS), logits_BTV, rtol=0, atol=0)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_target_sees_all_of_its_source_and_nothing_of_what_comes_after(settings):
    model = transformer(**settings)
    source_BS, tokens_BT = some_tokens(1, 5), some_tokens(1, 6, seed=2)
    logits_BTV = model(tokens_BT, source_BS)
    for place in range(6):
        changed = tokens_BT.clone()
        changed[0, place] = (changed[0, place] + 1) % V
        differs = (model(changed, source_BS) != logits_BTV).any(-1)[0]
        assert differs.tolist() == [False] * place + [True] * (6 - place)
    for place in range(5):
        changed = source_BS.clone()
        changed[0, place] = (changed[0, place] + 1) % W
        assert (model(tokens_BT, changed) != logits_BTV).any(-1).all()


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_decoding_with_a_cache_is_decoding_at_once(settings):
    model = transformer(**settings)
    source_BS, seen_BS, tokens_BT = some_tokens(3, BLOCK_SIZE), seen_of(12, 5, 1), some_tokens(3, 9, seed=2)
    memory = model.remember(model.encode(source_BS, seen_BS), seen_BS)
    cache = KVCache(model.capabilities.cache, 3, 9)
    pieces = [model.decode(piece, memory, cache) for piece in tokens_BT.split([1, 3, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model.decode(tokens_BT, memory), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_rows_of_memory_and_cache_can_be_chosen():
    model = transformer()
    source_BS, seen_BS, tokens_BT = some_tokens(3, BLOCK_SIZE), seen_of(12, 5, 1), some_tokens(3, 4, seed=2)
    memory, cache = model.remember(model.encode(source_BS, seen_BS), seen_BS), KVCache(model.capabilities.cache, 3, 4)
    model.decode(tokens_BT[:, :3], memory, cache)
    which = torch.tensor([2, 0, 0, 1])
    cache.select(which)
    told = model.decode(tokens_BT[which, 3:], memory.rows(which), cache)[:, 0]
    torch.testing.assert_close(told, model.decode(tokens_BT, memory)[which, 3], rtol=1e-4, atol=1e-5)


def test_paths_of_attention_agree_in_training():
    model = transformer().train()
    source_BS, seen_BS, tokens_BT = some_tokens(3, BLOCK_SIZE), seen_of(12, 5, 1), some_tokens(3, 9, seed=2)
    losses = []
    for path in ("fused", "products"):
        choose_path(model, path)
        losses.append(model.loss(tokens_BT, tokens_BT.roll(-1), source_BS, seen_BS))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_loss_counts_targets_alone(settings):
    model = transformer(**settings)
    source_BS, tokens_BT = some_tokens(3, 5), some_tokens(3, 6, seed=2)
    targets_BT = tokens_BT.roll(-1).masked_fill(seen_of(6, 2, 4)[:, :6].logical_not(), IGNORE_INDEX)
    logits_BTV = model(tokens_BT, source_BS)
    kept = targets_BT != IGNORE_INDEX
    torch.testing.assert_close(
        model.loss(tokens_BT, targets_BT, source_BS), F.cross_entropy(logits_BTV[kept], targets_BT[kept])
    )
    smoothed, plain = model.losses(tokens_BT, targets_BT, source_BS, smoothing=0.1)
    torch.testing.assert_close(smoothed, F.cross_entropy(logits_BTV[kept], targets_BT[kept], label_smoothing=0.1))
    torch.testing.assert_close(plain, F.cross_entropy(logits_BTV[kept], targets_BT[kept]))
    assert smoothed.requires_grad and not plain.requires_grad
    parameters = dict(model.named_parameters())
    expected = F.cross_entropy(logits_BTV[kept], targets_BT[kept], label_smoothing=0.1)
    found = (torch.autograd.grad(loss, [*parameters.values()], retain_graph=True) for loss in (smoothed, expected))
    for name, ours, theirs in zip(parameters, *found, strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")


def test_a_head_on_it_reads_what_the_decoder_repeats():
    network = WithHead(transformer(), 3, False, cross_entropy).eval()
    tokens_BKT = some_tokens(2, 1, BLOCK_SIZE)
    padded = tokens_BKT.clone()
    padded[1, 0, 5:] = 0
    ends_BK = torch.tensor([[11], [4]])
    logits_BN, _ = network(padded, ends_BK)
    alone_BN, _ = network(tokens_BKT[1:, :, :5], ends_BK[1:])
    torch.testing.assert_close(logits_BN[1:], alone_BN, rtol=1e-4, atol=1e-5)


def test_tables_are_shared_as_settings_say():
    model = transformer()
    assert model.encoder.wte.weight is model.decoder.wte.weight is model.lm_head.weight
    apart = transformer(share_tables=False, source_vocab_size=W)
    assert len(apart.encoder.wte.weight) == W and apart.lm_head.weight is apart.decoder.wte.weight
    with pytest.raises(ConfigError, match="share_tables"):
        transformer(source_vocab_size=W)


def test_sines_may_stand_before_cosines():
    beside, apart = transformer().decoder.wpe.table, transformer(positions="sinusoidal_halves").decoder.wpe.table
    assert torch.equal(apart, torch.cat([beside[:, 0::2], beside[:, 1::2]], dim=1))


def test_what_it_can_do_is_declared():
    assert transformer(head_bias=True).capabilities.head is None
    can = transformer().capabilities
    assert isinstance(can, Capabilities) and can.source and not can.next_token
    names = dict(transformer(positions="learned").named_parameters(remove_duplicate=False))
    for name in (can.head, can.embedding, *can.tied, "decoder.wpe.weight"):
        assert name in names
