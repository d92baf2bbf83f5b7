"""Targets about sources, against `generate` of transformers with the same weights, token by token."""

import math

import numpy as np
import pytest
import torch

from molino.base.errors import ConfigError, DataError, NonFiniteError
from molino.generation.targets import Vocabulary, Writing
from molino.generation.writing import write
from molino.models.gpt import GPT
from molino.models.source_first import SourceFirst
from molino.models.transformer import Transformer

V, BLOCK_SIZE, C = 40, 24, 16
PADDING, END, START = 0, 1, 2
WORDS = Vocabulary(START, END, PADDING)
SOURCES = 200


@pytest.fixture(scope="module")
def model() -> Transformer:
    """One with strong opinions that ends its targets sooner or later."""
    torch.manual_seed(0)
    model = Transformer(V, BLOCK_SIZE, n_layer=2, n_head=4, n_embd=C, n_inner=24).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.25)
    return model


@pytest.fixture(scope="module")
def other(model):
    """The same one of transformers: Marian is the transformer of 2017, but for the order in its table of sinusoids."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MarianConfig(
        vocab_size=V, d_model=C, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=BLOCK_SIZE,
        activation_function="relu", scale_embedding=True, dropout=0.0, decoder_start_token_id=START,
        pad_token_id=PADDING, eos_token_id=END, forced_eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    other = transformers.MarianMTModel(config).eval()
    stored = {"model.shared.weight": model.decoder.wte.weight}
    for stack, name in ((model.encoder, "encoder"), (model.decoder, "decoder")):
        for number, block in enumerate(stack.h):
            for kind in ("weight", "bias"):
                layer = f"model.{name}.layers.{number}"
                q, k, v = getattr(block.attn.c_attn, kind).chunk(3)
                parts = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v}
                modules = {"self_attn.out_proj": block.attn.c_proj, "self_attn_layer_norm": block.ln_1,
                           "fc1": block.mlp.c_fc, "fc2": block.mlp.c_proj}  # fmt: skip
                if name == "decoder":
                    k, v = getattr(block.cross.c_kv, kind).chunk(2)
                    parts |= {"encoder_attn.k_proj": k, "encoder_attn.v_proj": v}
                    modules |= {"encoder_attn.q_proj": block.cross.c_q, "encoder_attn.out_proj": block.cross.c_proj,
                                "encoder_attn_layer_norm": block.ln_2, "final_layer_norm": block.ln_3}  # fmt: skip
                else:
                    modules["final_layer_norm"] = block.ln_2
                parts |= {part: getattr(module, kind) for part, module in modules.items()}
                stored |= {f"{layer}.{part}.{kind}": tensor for part, tensor in parts.items()}
    absent, surplus = other.load_state_dict(stored, strict=False)
    assert not surplus and all("embed" in name or "lm_head" in name or "logits_bias" in name for name in absent)
    for stack in (other.model.encoder, other.model.decoder):
        stack.embed_positions.weight.data.copy_(model.encoder.wpe.table)
        stack.embed_tokens.weight.data.copy_(model.decoder.wte.weight)
    other.lm_head.weight.data.copy_(model.lm_head.weight)
    return other


@pytest.fixture(scope="module")
def sources() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(3, V, generator.integers(1, BLOCK_SIZE + 1)) for _ in range(SOURCES)]


def asked(sources: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Sources as transformers reads them."""
    longest = max(map(len, sources))
    ids = torch.tensor([[*source.tolist(), *[PADDING] * (longest - len(source))] for source in sources])
    seen = torch.tensor([[1] * len(source) + [0] * (longest - len(source)) for source in sources])
    return {"input_ids": ids, "attention_mask": seen}


def until_end(row: list[int]) -> list[int]:
    row = row[1:]
    return row[: row.index(END)] if END in row else row


@pytest.mark.parametrize("settings", [{}, {"no_repeat_ngram": 2}, {"min_new_tokens": 6}], ids=str)
def test_the_likeliest_tokens_are_those_of_transformers(model, other, sources, settings):
    own = write(model, sources, Writing(max_new_tokens=20, **settings), WORDS)
    told = {"no_repeat_ngram": "no_repeat_ngram_size"}
    theirs = other.generate(
        **asked(sources), max_new_tokens=20, do_sample=False, num_beams=1,
        **{told.get(name, name): value for name, value in settings.items()},
    )  # fmt: skip
    lengths = [len(each[0].tokens) for each in own]
    assert [each[0].tokens for each in own] == [until_end(row) for row in theirs.tolist()]
    assert min(lengths) < 6 or settings
    assert max(lengths) == 20 > len(set(map(str, own))) / SOURCES


BEAMS = [
    {"beams": 4},
    {"beams": 2, "length_penalty": 0.6},
    {"beams": 5, "length_penalty": 2.0, "n_best": 5},
    {"beams": 4, "length_penalty": -1.0, "n_best": 2},
    {"beams": 4, "no_repeat_ngram": 2, "min_new_tokens": 5, "n_best": 3},
    {"beams": 3, "no_repeat_ngram": 1, "length_penalty": 0.0},
]


@pytest.mark.parametrize("settings", BEAMS, ids=str)
def test_beams_are_those_of_transformers(model, other, sources, settings):
    own = write(model, sources, Writing(max_new_tokens=18, **settings), WORDS)
    names = {"no_repeat_ngram": "no_repeat_ngram_size", "beams": "num_beams", "n_best": "num_return_sequences"}
    theirs = other.generate(
        **asked(sources), max_new_tokens=18, do_sample=False, output_scores=True, return_dict_in_generate=True,
        **{names.get(name, name): value for name, value in settings.items()},
    )  # fmt: skip
    rows = [until_end(row) for row in theirs.sequences.tolist()]
    assert [one.tokens for each in own for one in each] == rows
    told = torch.tensor([one.score for each in own for one in each])
    torch.testing.assert_close(told, theirs.sequences_scores, rtol=1e-4, atol=1e-4)


def test_neighbours_change_nothing(model, sources):
    for writing in (Writing(), Writing(beams=3), Writing(temperature=1.0, n_best=2, top_k=10)):
        together = write(model, sources[:20], writing, WORDS, seed=3)
        alone = [write(model, [source], writing, WORDS, 3, [number])[0] for number, source in enumerate(sources[:20])]
        assert [[one.tokens for one in each] for each in together] == [[one.tokens for one in each] for each in alone]


def test_scores_are_those_of_the_text(model, sources):
    for writing in (Writing(length_penalty=0.0), Writing(length_penalty=1.0, beams=3), Writing(temperature=0.7)):
        for source, (best, *_) in zip(sources[:10], write(model, sources[:10], writing, WORDS), strict=True):
            ended = len(best.tokens) < BLOCK_SIZE
            targets = torch.tensor([*best.tokens, *([END] if ended else [])])
            tokens = torch.tensor([[START, *best.tokens][: len(targets)]])
            logp_TV = model(tokens, torch.from_numpy(source)[None])[0].log_softmax(-1)
            expected = logp_TV.gather(1, targets[:, None]).sum() / len(targets) ** writing.length_penalty
            assert math.isclose(best.score, expected.item(), rel_tol=1e-4)


def test_drawn_targets_follow_their_probabilities(model, sources):
    source = sources[0]
    drawn = write(model, [source], Writing(temperature=1.0, n_best=2000, max_new_tokens=1), WORDS, seed=1)[0]
    p_V = model(torch.tensor([[START]]), torch.from_numpy(source)[None])[0, 0].softmax(-1)
    counts = np.bincount([one.tokens[0] if one.tokens else END for one in drawn], minlength=V)
    spread = (2000 * p_V * (1 - p_V)).sqrt().detach().numpy()
    assert (np.abs(counts - 2000 * p_V.detach().numpy()) < 4.5 * spread + 1).all()
    few = write(model, [source], Writing(temperature=1.0, n_best=200, max_new_tokens=1, top_k=2), WORDS, seed=1)[0]
    assert len({tuple(one.tokens) for one in few}) <= 2


@torch.no_grad()
def test_a_model_that_goes_on_with_the_source_writes_as_it_does_alone(sources):
    torch.manual_seed(0)
    gpt = GPT(V, 2 * BLOCK_SIZE, n_layer=2, n_head=4, n_embd=C).eval()
    for parameter in gpt.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.2)
    network = SourceFirst(gpt).eval()
    for (best,), source in zip(write(network, sources[:40], Writing(max_new_tokens=12), WORDS), sources, strict=False):
        ids = [*source.tolist(), START]
        for _ in range(12):
            ids.append(int(gpt(torch.tensor([ids]))[0, -1].argmax()))
        assert best.tokens == until_end(ids[len(source) :])
    for (best, *_), source in zip(write(network, sources[:10], Writing(beams=3), WORDS), sources, strict=False):
        alone = write(network, [source], Writing(beams=3), WORDS)[0][0]
        assert best.tokens == alone.tokens


@torch.no_grad()
def test_source_first_reads_no_padding(sources):
    torch.manual_seed(0)
    network = SourceFirst(GPT(V, 2 * BLOCK_SIZE, n_layer=2, n_head=4, n_embd=C)).eval()
    source_BS = torch.randint(3, V, (3, 10))
    seen_BS = torch.arange(10) < torch.tensor([10, 4, 1])[:, None]
    tokens_BT = torch.randint(3, V, (3, 6))
    logits_BTV = network(tokens_BT, source_BS, seen_BS)
    for row, length in enumerate((10, 4, 1)):
        whole = torch.cat([source_BS[row, :length], tokens_BT[row]])[None]
        torch.testing.assert_close(logits_BTV[row], network.model(whole)[0, length:], rtol=1e-4, atol=1e-5)


def test_forbidden_tokens_are_never_written(model, sources):
    words = WORDS._replace(forbidden=(5, 6, 7, 8, PADDING, START))
    for writing in (Writing(), Writing(beams=3), Writing(temperature=2.0)):
        assert not {5, 6, 7, 8, 0, 2} & {t for each in write(model, sources, writing, words) for t in each[0].tokens}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"beams": 0}, "beams"),
        ({"n_best": 2}, "n_best"),
        ({"beams": 2, "temperature": 1.0}, "temperature"),
        ({"top_k": 3}, "top_k"),
        ({"min_new_tokens": 5, "max_new_tokens": 5}, "min_new_tokens"),
        ({"length_penalty": math.nan}, "length_penalty"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        Writing(**settings)


def test_what_cannot_be_written_about_is_refused(model):
    with pytest.raises(DataError, match="empty"):
        write(model, [np.array([], dtype=np.int64)], Writing(), WORDS)
    with pytest.raises(ConfigError, match="vocabulary"):
        write(model, [np.array([3])], Writing(beams=V), WORDS)
    broken = Transformer(V, BLOCK_SIZE, n_layer=1, n_head=2, n_embd=8)
    with torch.no_grad():
        broken.decoder.ln_f = torch.nn.Identity()
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError):
        write(broken, [np.array([3])], Writing(), WORDS)
