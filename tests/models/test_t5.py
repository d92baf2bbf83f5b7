"""T5 against that of `transformers`, and what its masks, its distances and its cache promise."""

import pytest
import torch
import transformers
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models import IGNORE_INDEX
from molino.models.attention import choose_path
from molino.models.cache import KVCache
from molino.models.head import LARGE_VOCABULARY
from molino.models.relative import bucket_of
from molino.models.t5 import T5
from molino.models.with_head import WithHead
from molino.tasks.outcomes import cross_entropy

V, BLOCK_SIZE, C, H, D, INNER = 23, 24, 16, 4, 6, 20
FIRST = {"activation": "relu", "gated": False}  # T5 1.0
LATER = {"tie_weights": False}  # T5 1.1
KINDS = {"1.0": FIRST, "1.1": LATER, "apart": {"share_tables": False, "activation": "gelu"}}
PARTS = ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v")


def t5(**settings) -> T5:
    """A small one in eval mode whose outputs are far from uniform, and in which all kinds of buckets are met."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": H, "n_embd": C, "head_size": D, "n_inner": INNER}
    model = T5(V, BLOCK_SIZE, **sizes | {"buckets": 8, "max_distance": 10} | settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1.0 if "relative" in name else 0.2)
    return model


def some_tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def seen_of(*lengths: int) -> torch.Tensor:
    return torch.arange(BLOCK_SIZE) < torch.tensor(lengths)[:, None]


def parts_of(model: T5) -> dict[str, tuple[str, ...]]:
    """Our names of weights, and under which `transformers` has their rows, one below the other."""
    gated = model.encoder.h[0].mlp.gated
    names = {"encoder.wte.weight": ("shared.weight",), "lm_head.weight": ("lm_head.weight",)}
    for stack, last in (("encoder", "layer.1"), ("decoder", "layer.2")):
        names[f"{stack}.relative.weight"] = (f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",)
        names[f"{stack}.ln_f.weight"] = (f"{stack}.final_layer_norm.weight",)
        for at in range(2):
            own, block = f"{stack}.h.{at}", f"{stack}.block.{at}"
            told = {
                "attn.c_attn": [f"layer.0.{part}" for part in PARTS],
                "attn.c_proj": ["layer.0.SelfAttention.o"],
                "ln_1": ["layer.0.layer_norm"],
                "ln_2": ["layer.1.layer_norm"],
                "mlp.c_proj": [f"{last}.DenseReluDense.wo"],
            }
            first = {"mlp.gate_up_proj": ("wi_0", "wi_1")} if gated else {"mlp.c_fc": ("wi",)}
            told |= {name: [f"{last}.DenseReluDense.{part}" for part in parts] for name, parts in first.items()}
            if stack == "decoder":
                told |= {
                    "cross.c_q": ["layer.1.EncDecAttention.q"],
                    "cross.c_kv": ["layer.1.EncDecAttention.k", "layer.1.EncDecAttention.v"],
                    "cross.c_proj": ["layer.1.EncDecAttention.o"],
                    "ln_3": ["layer.2.layer_norm"],
                }
            names |= {f"{own}.{name}.weight": tuple(f"{block}.{x}.weight" for x in to) for name, to in told.items()}
    return names


def theirs(model: T5, **settings) -> transformers.T5ForConditionalGeneration:
    """That of `transformers` with the same weights."""
    sizes = {"vocab_size": V, "d_model": C, "d_kv": D, "d_ff": INNER, "num_layers": 2, "num_heads": H}
    distances = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10}
    config = transformers.T5Config(**sizes, **distances, dropout_rate=0.0, **settings)
    other = transformers.T5ForConditionalGeneration(config).eval()
    other.lm_head.weight = torch.nn.Parameter(other.lm_head.weight.detach().clone())
    weights = dict(other.named_parameters())
    own = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parts in parts_of(model).items():
            rows = [len(weights[part]) for part in parts]
            for part, piece in zip(parts, own[name].split(rows), strict=True):
                weights[part].copy_(piece)
    return other


@pytest.mark.parametrize(
    ("settings", "their_settings"),
    [
        (FIRST, {"feed_forward_proj": "relu"}),
        (LATER, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    ],
    ids=["1.0", "1.1"],
)
def test_forward_and_gradients_are_those_of_transformers(settings, their_settings):
    model = t5(**settings)
    other = theirs(model, **their_settings)
    assert other.config.scale_decoder_outputs is (model.lm_head.weight is model.decoder.wte.weight)
    source_BS, tokens_BT, seen_BS = some_tokens(3, BLOCK_SIZE), some_tokens(3, 17, seed=2), seen_of(24, 5, 1)
    told = {"input_ids": source_BS, "attention_mask": seen_BS.long(), "decoder_input_ids": tokens_BT}
    logits_BTV, expected_BTV = model(tokens_BT, source_BS, seen_BS), other(**told).logits
    assert expected_BTV.std() > 0.5
    torch.testing.assert_close(logits_BTV, expected_BTV, rtol=1e-4, atol=1e-5)

    picked_BTV = torch.randn(logits_BTV.shape, generator=torch.Generator().manual_seed(3))
    (logits_BTV * picked_BTV).sum().backward()
    (expected_BTV * picked_BTV).sum().backward()
    weights = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        expected = torch.cat([weights[part].grad for part in parts_of(model)[name]])
        if name == "encoder.wte.weight" and model.capabilities.tied:
            expected = expected + weights["lm_head.weight"].grad
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}:{text}"
        )
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 10), (4, 3), (7, 50)])
def test_buckets_are_those_of_transformers(buckets, max_distance, both_ways):
    bucket = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    distances = torch.arange(-600, 601)
    ours = bucket_of(distances, buckets, max_distance, both_ways)
    assert torch.equal(ours, bucket(distances, both_ways, buckets, max_distance))


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_padding_of_sources_changes_nothing(settings):
    model = t5(**settings)
    tokens_BT = some_tokens(3, 6, seed=2)
    source_BS, seen_BS = some_tokens(3, BLOCK_SIZE), seen_of(24, 5, 1)
    logits_BTV = model(tokens_BT, source_BS, seen_BS)
    for row, length in enumerate((24, 5, 1)):
        alone = model(tokens_BT[row : row + 1], source_BS[row : row + 1, :length])
        torch.testing.assert_close(logits_BTV[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    other = torch.where(seen_BS, source_BS, (source_BS + 1) % V)
    torch.testing.assert_close(model(tokens_BT, other, seen_BS), logits_BTV, rtol=0, atol=0)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_target_sees_all_of_its_source_and_nothing_of_what_comes_after(settings):
    model = t5(**settings)
    source_BS, tokens_BT = some_tokens(1, 5), some_tokens(1, 6, seed=2)
    logits_BTV = model(tokens_BT, source_BS)
    for place in range(6):
        changed = tokens_BT.clone()
        changed[0, place] = (changed[0, place] + 1) % V
        differs = (model(changed, source_BS) != logits_BTV).any(-1)[0]
        assert differs.tolist() == [False] * place + [True] * (6 - place)
    for place in range(5):
        changed = source_BS.clone()
        changed[0, place] = (changed[0, place] + 1) % V
        assert (model(tokens_BT, changed) != logits_BTV).any(-1).all()


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_decoding_with_a_cache_is_decoding_at_once(settings):
    model = t5(**settings)
    source_BS, seen_BS, tokens_BT = some_tokens(3, BLOCK_SIZE), seen_of(24, 5, 1), some_tokens(3, 20, seed=2)
    memory = model.remember(model.encode(source_BS, seen_BS), seen_BS)
    cache = KVCache(model.capabilities.cache, 3, 20)
    pieces = [model.decode(piece, memory, cache) for piece in tokens_BT.split([1, 3, 1, 12, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model.decode(tokens_BT, memory), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_rows_of_memory_and_cache_can_be_chosen():
    model = t5()
    source_BS, seen_BS, tokens_BT = some_tokens(3, BLOCK_SIZE), seen_of(24, 5, 1), some_tokens(3, 14, seed=2)
    memory, cache = model.remember(model.encode(source_BS, seen_BS), seen_BS), KVCache(model.capabilities.cache, 3, 14)
    model.decode(tokens_BT[:, :13], memory, cache)
    which = torch.tensor([2, 0, 0, 1])
    cache.select(which)
    told = model.decode(tokens_BT[which, 13:], memory.rows(which), cache)[:, 0]
    torch.testing.assert_close(told, model.decode(tokens_BT, memory)[which, 13], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_rows_of_a_cache_may_differ_in_length():
    model, lengths = t5(), [3, 13, 7]
    source_BS, seen_BS, tokens_BT = some_tokens(3, BLOCK_SIZE), seen_of(24, 5, 1), some_tokens(3, 16, seed=2)
    memory, cache = model.remember(model.encode(source_BS, seen_BS), seen_BS), KVCache(model.capabilities.cache, 3, 16)
    model.decode(tokens_BT[:, :13], memory, cache)
    cache.fill(lengths)
    whole_BTC = model.decode(tokens_BT, memory)
    for step in range(3):
        places_B = torch.tensor(lengths) + step
        rows_B = torch.arange(3)
        told_BC = model.decode(tokens_BT[rows_B, places_B][:, None], memory, cache)[:, 0]
        torch.testing.assert_close(told_BC, whole_BTC[rows_B, places_B], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_paths_of_attention_agree_in_training(settings):
    model = t5(**settings).train().double()
    source_BS, seen_BS, tokens_BT = some_tokens(3, BLOCK_SIZE), seen_of(24, 5, 1), some_tokens(3, 9, seed=2)
    found = []
    for path in ("fused", "products"):
        choose_path(model, path)
        model.zero_grad()
        model.loss(tokens_BT, tokens_BT.roll(-1), source_BS, seen_BS).backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_it_trains_in_bfloat16(dropout):
    model = t5(dropout=dropout).train()
    source_BS, seen_BS, tokens_BT = some_tokens(3, BLOCK_SIZE), seen_of(24, 5, 1), some_tokens(3, 9, seed=2)
    exact = model.eval().loss(tokens_BT, tokens_BT.roll(-1), source_BS, seen_BS)
    model.train(dropout > 0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens_BT, tokens_BT.roll(-1), source_BS, seen_BS)
    torch.testing.assert_close(loss, exact, rtol=0.03 if dropout == 0 else 0.5, atol=0)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_loss_counts_targets_alone(settings):
    model = t5(**settings)
    source_BS, tokens_BT = some_tokens(3, 5), some_tokens(3, 6, seed=2)
    targets_BT = tokens_BT.roll(-1).masked_fill(seen_of(6, 2, 4)[:, :6].logical_not(), IGNORE_INDEX)
    logits_BTV, kept = model(tokens_BT, source_BS), targets_BT != IGNORE_INDEX
    expected = F.cross_entropy(logits_BTV[kept], targets_BT[kept])
    torch.testing.assert_close(model.loss(tokens_BT, targets_BT, source_BS), expected)
    smoothed, plain = model.losses(tokens_BT, targets_BT, source_BS, smoothing=0.1)
    torch.testing.assert_close(smoothed, F.cross_entropy(logits_BTV[kept], targets_BT[kept], label_smoothing=0.1))
    torch.testing.assert_close(plain, expected)
    assert smoothed.requires_grad and not plain.requires_grad


def test_a_head_on_it_reads_what_the_decoder_repeats():
    network = WithHead(t5(), 3, False, cross_entropy).eval()
    tokens_BKT = some_tokens(2, 1, BLOCK_SIZE)
    padded = tokens_BKT.clone()
    padded[1, 0, 5:] = 0
    logits_BN, _ = network(padded, torch.tensor([[23], [4]]))
    alone_BN, _ = network(tokens_BKT[1:, :, :5], torch.tensor([[4]]))
    torch.testing.assert_close(logits_BN[1:], alone_BN, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_what_it_can_do_is_declared(settings):
    model = t5(**settings)
    can, names = model.capabilities, dict(model.named_parameters(remove_duplicate=False))
    assert can.source and not can.next_token and can.head in names and can.embedding in names
    assert (can.tied is not None) is (names["lm_head.weight"] is names["decoder.wte.weight"])
    for group in can.layers:
        assert all(model.get_submodule(name) for name in group)
    hidden_BTC = model.hidden(some_tokens(2, 5))
    torch.testing.assert_close(model.head(hidden_BTC), hidden_BTC @ names[can.head].T)
    shared = names["encoder.wte.weight"] is names["decoder.wte.weight"]
    assert shared is settings.get("share_tables", True)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_it_begins_near_ignorance(settings):
    """The first logits are about as large as those of T5 1.0, whatever the head."""
    torch.manual_seed(0)
    model = T5(LARGE_VOCABULARY, BLOCK_SIZE, 2, 4, 128, **settings).eval()
    assert 0.5 < model(some_tokens(4, 12), some_tokens(4, BLOCK_SIZE)).std() < 2
    q, k, v = model.encoder.h[1].attn.c_attn.weight.chunk(3)
    for part, std in ((q, (128 * 32) ** -0.5), (k, 128**-0.5), (v, 128**-0.5)):
        torch.testing.assert_close(part.std().item(), std, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buckets": 3}, "model.buckets=3 is too small: choose 4 or more"),
        ({"max_distance": 4}, "model.max_distance=4 is too small: choose more than model.buckets / 2"),
        ({"head_size": 0}, "model.head_size=0 is too small"),
        ({"activation": "elu"}, "model.activation=elu is unknown: choose one of gelu, gelu_tanh, relu, silu"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        t5(**settings)


def test_texts_beyond_the_block_size_are_refused():
    with pytest.raises(ConfigError, match="block_size=24"):
        t5()(some_tokens(1, 3), some_tokens(1, BLOCK_SIZE + 1))
