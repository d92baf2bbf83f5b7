"""Encoder-decoders to and from `transformers`: logits, gradients, and what is written about a source."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from molino.base.errors import CheckpointError, ConfigError
from molino.data.tokenizers import train_char
from molino.hub.read import architecture, load_model, read_weights
from molino.hub.write import find_format, write_model
from molino.models.cache import KVCache
from molino.models.shapes import shapes_only
from molino.models.t5 import T5
from molino.models.transformer import Transformer
from molino.trained.folder import load_source

V, S, T = 41, 24, 11
T5_SIZES = {
    "vocab_size": V, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_heads": 4, "n_positions": S,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0,
}  # fmt: skip
LATER = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART_SIZES = {
    **{f"{stack}_{name}": size for stack in ("encoder", "decoder")
       for name, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))},
    "vocab_size": V, "d_model": 32, "max_position_embeddings": S, "init_std": 0.2, "pad_token_id": 0,
    "decoder_start_token_id": 0, "eos_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip
THEIRS = {
    "t5-1.0": ("T5", T5_SIZES),
    "t5-1.1": ("T5", T5_SIZES | LATER),
    "t5-gated-relu": ("T5", T5_SIZES | {"feed_forward_proj": "gated-relu", "layer_norm_epsilon": 0.03}),
}
THEIRS |= {
    "marian": ("Marian", BART_SIZES | {"scale_embedding": True, "activation_function": "swish"}),
    "marian-unscaled": ("Marian", BART_SIZES),
    "pegasus": ("Pegasus", BART_SIZES | {"scale_embedding": True, "activation_function": "relu"}),
}
CLASSES = {
    "T5": "T5ForConditionalGeneration",
    "Marian": "MarianMTModel",
    "Pegasus": "PegasusForConditionalGeneration",
}
SIZES = {"vocab_size": V, "block_size": S, "n_layer": 2, "n_head": 4, "n_embd": 32}
OURS = {
    "t5-1.0": (T5, {"activation": "relu", "gated": False}),
    "t5-1.1": (T5, {"tie_weights": False, "head_size": 5, "n_inner": 20, "buckets": 10, "max_distance": 20}),
    "marian": (Transformer, {"positions": "sinusoidal_halves", "head_bias": True, "norm": "post"}),
    "marian-untied": (Transformer, {"positions": "sinusoidal_halves", "head_bias": True, "tie_weights": False}),
    "pegasus": (Transformer, {"positions": "sinusoidal_halves", "head_bias": True, "norm": "pre", "n_inner": 40}),
}


def stirred(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "embed_positions" not in name and "wpe" not in name:
                tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return model.eval()


def make_theirs(kind: str) -> nn.Module:
    name, settings = THEIRS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, CLASSES[name])(config)
    if settings.get("tie_word_embeddings") is False:  # as in what was published, where transformers 5 would tie it
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.3)
    return stirred(model)


@pytest.fixture(scope="module", params=THEIRS)
def pair(request, tmp_path_factory):
    """A model of theirs, and ours read from what it saved, in several files."""
    theirs, folder = make_theirs(request.param), tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder, max_shard_size="40KB")
    return theirs, load_model(str(folder)), folder


def some_tokens(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, V, (rows, length), generator=torch.Generator().manual_seed(seed))


def seen_of(*lengths: int) -> torch.Tensor:
    return torch.arange(S) < torch.tensor(lengths)[:, None]


def asked() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return some_tokens(3, T, seed=2), some_tokens(3, S), seen_of(S, 7, 1)


def of_theirs(model: nn.Module) -> torch.Tensor:
    tokens_BT, source_BS, seen_BS = asked()
    return model(input_ids=source_BS, attention_mask=seen_BS.long(), decoder_input_ids=tokens_BT).logits


def test_logits_and_gradients(pair):
    theirs, ours, folder = pair
    expected_BTV, logits_BTV = of_theirs(theirs), ours(*asked())
    assert expected_BTV.std() > 0.5
    torch.testing.assert_close(logits_BTV, expected_BTV, atol=1e-4, rtol=1e-5)
    picked_BTV = torch.randn(logits_BTV.shape, generator=torch.Generator().manual_seed(2))
    theirs.zero_grad(), ours.zero_grad()
    (logits_BTV * picked_BTV).sum().backward()
    (expected_BTV * picked_BTV).sum().backward()
    # Gradients take the way of the weights: written by their names, read by ours.
    kept = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.grad is not None:
                parameter.copy_(parameter.grad)
    theirs.save_pretrained(folder / "gradients")
    theirs.load_state_dict(kept)
    read = dict(load_model(str(folder / "gradients")).named_parameters())
    for name, parameter in ours.named_parameters():
        if name != "lm_head.bias":  # there it is none that learns
            torch.testing.assert_close(parameter.grad, read[name].detach(), atol=1e-3, rtol=1e-3, msg=name)
            assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_what_is_written_about_sources(pair):
    """The likeliest tokens, with our cache and theirs."""
    theirs, ours, _ = pair
    _, source_BS, seen_BS = asked()
    read = {"input_ids": source_BS, "attention_mask": seen_BS.long()}
    # Their end of a text would end it early.
    told = {"do_sample": False, "num_beams": 1, "max_new_tokens": 15, "suppress_tokens": [0, 1], "bad_words_ids": None}
    expected_BT = theirs.generate(**read, **told, forced_eos_token_id=None)
    memory = ours.remember(ours.encode(source_BS, seen_BS), seen_BS)
    cache, written = KVCache(ours.capabilities.cache, 3, 16), [expected_BT[:, :1]]
    for _ in range(15):
        logits_BV = ours.head(ours.decode(written[-1], memory, cache))[:, -1]
        logits_BV[:, :2] = -torch.inf
        written.append(logits_BV.argmax(-1, keepdim=True))
    assert torch.equal(torch.cat(written, dim=1), expected_BT)


def test_what_was_read_is_written_bit_for_bit(pair, tmp_path):
    theirs, ours, folder = pair
    node = architecture(str(folder))
    form = find_format(ours, node)
    assert form.model_type == theirs.config.model_type
    write_model(tmp_path, ours, form, node, {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1})
    written = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(written.state_dict()[name], tensor), name
    torch.testing.assert_close(of_theirs(written), of_theirs(theirs), atol=0, rtol=0)


@pytest.mark.parametrize("kind", OURS)
def test_ours_in_transformers_and_back(kind, tmp_path):
    torch.manual_seed(0)
    family, changed = OURS[kind]
    settings = SIZES | changed
    model = stirred(family(**settings))
    form = find_format(model, settings)
    assert form.model_type == kind.partition("-")[0]
    write_model(tmp_path, model, form, settings, {"decoder_start_token_id": 3, "pad_token_id": 0})
    theirs, told = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs.eval()).__name__ == form.architecture
    assert not told["missing_keys"] and not told["unexpected_keys"]
    with torch.no_grad():
        assert of_theirs(theirs).std() > 0.3
        torch.testing.assert_close(model(*asked()), of_theirs(theirs), atol=1e-4, rtol=0)
        torch.testing.assert_close(load_model(str(tmp_path))(*asked()), model(*asked()), atol=1e-6, rtol=0)
    # Weights alone, into a model of the same sizes that knows more tokens.
    read = architecture(str(tmp_path))
    assert {name: read[name] for name in settings} == settings
    larger = family(**{**settings, "vocab_size": V + 2})
    before = larger.decoder.wte.weight.detach().clone()
    read_weights(larger, str(tmp_path))
    assert torch.equal(larger.decoder.wte.weight[:V], model.decoder.wte.weight)
    assert torch.equal(larger.decoder.wte.weight[V:], before[V:])
    if larger.lm_head.bias is not None:
        assert torch.equal(larger.lm_head.bias[:V], model.lm_head.bias) and larger.lm_head.bias[V:].tolist() == [
            0.0,
            0.0,
        ]


def test_a_folder_is_loaded_with_its_start_and_its_tokenizer(pair):
    theirs, ours, folder = pair
    train_char([["".join(map(chr, range(65, 65 + V - 3)))]]).save(folder / "tokenizer.json")
    loaded = load_source(str(folder), torch.device("cpu"))
    assert loaded.start_id == theirs.generation_config.decoder_start_token_id and loaded.prefix == ()
    torch.testing.assert_close(loaded.model(*asked()), ours(*asked()))


def test_a_head_without_a_bias_has_one_of_zeros_there(tmp_path):
    torch.manual_seed(0)
    settings = SIZES | {"positions": "sinusoidal_halves", "norm": "pre"}
    model = stirred(Transformer(**settings))
    write_model(
        tmp_path, model, find_format(model, settings), settings, {"decoder_start_token_id": 3, "pad_token_id": 0}
    )
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(model(*asked()), of_theirs(theirs), atol=1e-4, rtol=0)
    assert load_model(str(tmp_path)).lm_head.bias.tolist() == [0.0] * V


def test_a_head_that_is_the_table_without_being_scaled(tmp_path):
    """So transformers 5 makes T5 1.1 anew: nothing of the head is in the file."""
    torch.manual_seed(0)
    theirs = stirred(transformers.T5ForConditionalGeneration(transformers.T5Config(**T5_SIZES | LATER)))
    theirs.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    ours = load_model(str(tmp_path))
    assert torch.equal(ours.lm_head.weight, ours.decoder.wte.weight)
    torch.testing.assert_close(ours(*asked()), of_theirs(theirs), atol=1e-4, rtol=1e-5)


def test_what_the_first_t5_hold_beside_is_passed_over(tmp_path):
    theirs = make_theirs("t5-1.0")
    theirs.save_pretrained(tmp_path)
    whole, stored = load_model(str(tmp_path)).state_dict(), load_file(tmp_path / "model.safetensors")
    stored["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 4)
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        stored[name] = stored["shared.weight"].clone()
    save_file(stored, tmp_path / "model.safetensors")
    # And their config knows nothing of entries that came later.
    config = json.loads((tmp_path / "config.json").read_text())
    config = {
        name: value for name, value in config.items() if name not in ("scale_decoder_outputs", "feed_forward_proj")
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert all(torch.equal(whole[name], tensor) for name, tensor in load_model(str(tmp_path)).state_dict().items())


@pytest.mark.parametrize(
    ("kind", "changed", "part"),
    [
        ("t5-1.0", {"num_decoder_layers": 3}, "num_decoder_layers=3"),
        ("t5-1.0", {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj=gated-tanh"),
        ("marian", {"decoder_ffn_dim": 50}, "decoder_ffn_dim=50"),
        ("marian", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings=False"),
        ("pegasus", {"activation_function": "tanh"}, "activation_function=tanh"),
    ],
)
def test_what_the_family_cannot_express(kind, changed, part, tmp_path):
    name, settings = THEIRS[kind]
    getattr(transformers, f"{name}Config")(**settings | changed).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=part):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        (T5, {"share_tables": False}, "model.share_tables=False has no counterpart in t5"),
        (
            Transformer,
            {"norm": "pre"},
            "model.positions=sinusoidal has no counterpart in pegasus, only sinusoidal_halves",
        ),
        (
            Transformer,
            {"share_tables": False, "positions": "sinusoidal_halves"},
            "model.share_tables=False has no counter",
        ),
        (T5, {"activation": "gelu"}, "model.activation=gelu with model.gated=True has no counterpart in t5"),
    ],
)
def test_what_has_no_counterpart_is_refused(family, changed, message):
    with shapes_only():
        model = family(**SIZES | changed)
    with pytest.raises(ConfigError, match=message):
        find_format(model, SIZES | changed)
