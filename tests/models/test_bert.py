"""The encoder against transformers' own, and what its masks promise."""

import pytest
import torch
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models import IGNORE_INDEX
from molino.models.attention import choose_path
from molino.models.bert import BERT
from molino.models.with_head import WithHead
from molino.tasks.outcomes import cross_entropy

V, BLOCK_SIZE, C = 23, 12, 16
KINDS = {
    "as published": {},
    "pre-norm": {"norm": "pre"},
    "rotary": {"positions": "rotary", "norm": "pre", "activation": "gelu_tanh"},
}


def bert(**settings) -> BERT:
    """A small one in eval mode whose outputs are far from uniform."""
    torch.manual_seed(0)
    model = BERT(V, BLOCK_SIZE, n_layer=2, n_head=4, n_embd=C, **settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def some_tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def seen_of(*lengths: int) -> torch.Tensor:
    return torch.arange(BLOCK_SIZE) < torch.tensor(lengths)[:, None]


def theirs(model: BERT):
    """The same model of transformers, with the same tensors."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=V, hidden_size=C, num_hidden_layers=2, num_attention_heads=4, intermediate_size=4 * C,
        max_position_embeddings=BLOCK_SIZE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    other = transformers.BertForMaskedLM(config).eval()
    tables = {"word": model.wte, "position": model.wpe, "token_type": model.wse}
    stored = {f"bert.embeddings.{name}_embeddings.weight": table.weight for name, table in tables.items()}
    for kind in ("weight", "bias"):
        places = {"bert.embeddings.LayerNorm": model.ln_e, "cls.predictions.transform.dense": model.transform[0],
                  "cls.predictions.transform.LayerNorm": model.transform[2]}  # fmt: skip
        for number, block in enumerate(model.h):
            layer = f"bert.encoder.layer.{number}"
            parts = getattr(block.attn.c_attn, kind).chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                stored[f"{layer}.attention.self.{name}.{kind}"] = part
            places |= {
                f"{layer}.attention.output.dense": block.attn.c_proj, f"{layer}.attention.output.LayerNorm": block.ln_1,
                f"{layer}.intermediate.dense": block.mlp.c_fc, f"{layer}.output.dense": block.mlp.c_proj,
                f"{layer}.output.LayerNorm": block.ln_2,
            }  # fmt: skip
        stored |= {f"{name}.{kind}": getattr(module, kind) for name, module in places.items()}
    stored |= {"cls.predictions.decoder.weight": model.wte.weight, "cls.predictions.decoder.bias": model.lm_head.bias,
               "cls.predictions.bias": model.lm_head.bias}  # fmt: skip
    other.load_state_dict({name: tensor.detach() for name, tensor in stored.items()}, strict=True)
    return other


def test_it_is_that_of_transformers():
    model, seen = bert(), seen_of(12, 5, 9)
    other, tokens = theirs(model), some_tokens(3, BLOCK_SIZE)
    segments = (torch.arange(BLOCK_SIZE) > 4).long().expand(3, -1)
    wanted = other(tokens, attention_mask=seen.long(), token_type_ids=segments).logits
    torch.testing.assert_close(model(tokens, seen, segments)[seen], wanted[seen], atol=1e-5, rtol=1e-5)
    wanted = other(tokens, attention_mask=seen.long()).logits
    torch.testing.assert_close(model(tokens, seen)[seen], wanted[seen], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", ["fused", "products"])
def test_its_gradients_are_those_of_transformers(path):
    model, seen = bert(), seen_of(12, 5, 9)
    other, tokens = theirs(model), some_tokens(3, BLOCK_SIZE)
    choose_path(model, path)
    targets = torch.where(seen & (some_tokens(3, BLOCK_SIZE, seed=3) < 9), tokens, IGNORE_INDEX)
    model.loss(tokens, targets, seen).backward()
    other(tokens, attention_mask=seen.long(), labels=targets).loss.backward()
    # Theirs does not learn the row of token 0 from where it is read, which stands for padding there.
    mine, their = (table.weight.grad[1:] for table in (model.wte, other.bert.embeddings.word_embeddings))
    torch.testing.assert_close(mine, their, atol=1e-5, rtol=1e-4)
    pairs = [
        (model.wpe, other.bert.embeddings.position_embeddings),
        (model.ln_e, other.bert.embeddings.LayerNorm),
        (model.h[0].mlp.c_fc, other.bert.encoder.layer[0].intermediate.dense),
        (model.h[1].attn.c_proj, other.bert.encoder.layer[1].attention.output.dense),
        (model.transform[0], other.cls.predictions.transform.dense),
    ]
    for mine, their in pairs:
        torch.testing.assert_close(mine.weight.grad, their.weight.grad, atol=1e-5, rtol=1e-4)
        assert mine.weight.grad.abs().max() > 1e-4
    attention = other.bert.encoder.layer[0].attention.self
    stacked = torch.cat([getattr(attention, name).weight.grad for name in ("query", "key", "value")])
    torch.testing.assert_close(model.h[0].attn.c_attn.weight.grad, stacked, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grad", [False, True])
def test_padding_changes_nothing(kind, grad):
    """Whatever stands there, and however much of it, on both paths of attention."""
    model, tokens = bert(**KINDS[kind]), some_tokens(2, 7)
    for path in ("fused", "products") if grad else ("auto",):
        choose_path(model, path)
        with torch.set_grad_enabled(grad):
            alone = model(tokens)
            for filler in (0, 5):
                padded = F.pad(tokens, (0, BLOCK_SIZE - 7), value=filler)
                torch.testing.assert_close(model(padded, seen_of(7, 7))[:, :7], alone, atol=1e-5, rtol=1e-5)
            assert not torch.allclose(model(padded)[:, :7], alone, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_token_sees_all_others(kind):
    model, tokens = bert(**KINDS[kind]), some_tokens(1, BLOCK_SIZE)
    before = model(tokens)
    for place in range(BLOCK_SIZE):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % V
        assert ((model(changed) - before).abs().amax(-1) > 1e-4).all()


def test_the_loss_is_that_of_all_logits_at_the_targets():
    model, tokens = bert(), some_tokens(3, BLOCK_SIZE)
    targets = torch.where(some_tokens(3, BLOCK_SIZE, seed=3) < 5, tokens, IGNORE_INDEX)
    wanted = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(model.loss(tokens, targets), wanted)
    nothing = model.loss(tokens, torch.full_like(tokens, IGNORE_INDEX))
    nothing.backward()
    assert nothing == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("pooling", ["first", "mean", "extract"])
@torch.no_grad()
def test_a_head_reads_no_padding(pooling):
    torch.manual_seed(0)
    network = WithHead(bert(), 3, False, cross_entropy, pooling).eval()
    tokens, ends = some_tokens(2, 1, 7), torch.full((2, 1), 6)
    alone = network(tokens, ends)[0]
    padded = network(F.pad(tokens, (0, 5), value=4), ends)[0]
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_head_on_pairs_is_told_which_text_each_token_is_of():
    torch.manual_seed(0)
    model = bert()
    network = WithHead(model, 3, False, cross_entropy, "first").eval()
    tokens, ends, seconds = some_tokens(2, 1, 7), torch.full((2, 1), 6), torch.tensor([[3], [5]])
    logits = network(tokens, ends, None, seconds)[0]
    segments = (torch.arange(7) >= seconds).long()
    states = model.hidden(tokens[:, 0], torch.ones(2, 7, dtype=torch.bool), segments)[:, 0]
    torch.testing.assert_close(logits, network.task_head(states), atol=1e-6, rtol=1e-5)
    assert (logits != network(tokens, ends)[0]).all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"positions": "sinusoidal"}, "model.positions=sinusoidal is unknown: choose one of learned, rotary"),
        ({"norm": "none"}, "model.norm=none is unknown"),
        ({"n_head": 3}, "model.n_embd=16 is not divisible by model.n_head=3"),
        ({"dropout": 1.0}, "model.dropout=1.0 is out of range"),
    ],
)
def test_settings_out_of_range_are_one_line(settings, says):
    with pytest.raises(ConfigError) as error:
        BERT(V, BLOCK_SIZE, **{"n_layer": 1, "n_head": 4, "n_embd": C} | settings)
    assert says in str(error.value) and "\n" not in str(error.value)
