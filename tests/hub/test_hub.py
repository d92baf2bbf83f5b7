"""Parity with `transformers`, both ways: small random models of each architecture, made by it and by us."""

import json

import pytest
import torch
import transformers
from torch import nn

from molino.base.errors import ConfigError
from molino.configuration.build import defaults_of
from molino.generation.decode import generate
from molino.hub.formats import FORMATS
from molino.hub.read import FAMILIES, architecture, load_model
from molino.hub.write import find_format, write_model
from molino.models import IGNORE_INDEX
from molino.models.bigram import Bigram
from molino.models.gpt import GPT
from molino.models.llama import Llama

V, T = 97, 48
GPT_SIZES = {"vocab_size": V, "n_positions": 2 * T, "n_embd": 64, "n_layer": 3, "n_head": 4}
LLAMA_SIZES = {
    "vocab_size": V, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2 * T, "rope_theta": 5000.0, "pad_token_id": 0,
}  # fmt: skip
# Weights far from zero, so that no difference hides behind small logits; ids that lie inside the vocabulary.
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
COMMON = {"initializer_range": 0.1, "bos_token_id": 1, "eos_token_id": 2}
THEIRS = {
    "gpt2": ("GPT2", GPT_SIZES),
    "gpt2-exact-gelu-untied": ("GPT2", GPT_SIZES | {"activation_function": "gelu", "tie_word_embeddings": False}),
    "openai-gpt": ("OpenAIGPT", GPT_SIZES),
    "llama": ("Llama", LLAMA_SIZES),
    "llama-tied-wide-heads": ("Llama", LLAMA_SIZES | {"tie_word_embeddings": True, "head_dim": 32}),
    "mistral": ("Mistral", LLAMA_SIZES | {"sliding_window": 9}),
    "qwen2": ("Qwen2", LLAMA_SIZES),
    "qwen3": ("Qwen3", LLAMA_SIZES | {"head_dim": 8}),
    "phi3": ("Phi3", LLAMA_SIZES | {"sliding_window": 13}),
}
OURS = {
    "gpt2": (GPT, {"activation": "gelu_tanh"}),
    "gpt2-relu-no-bias": (GPT, {"activation": "relu", "bias": False, "n_inner": 80, "tie_weights": False}),
    "openai-gpt": (GPT, {"norm": "post", "activation": "gelu_tanh"}),
    "llama": (Llama, {"n_kv_head": 1, "tie_weights": True}),
    "mistral": (Llama, {"n_kv_head": 2, "window": 7, "head_size": 8}),
    "qwen2": (Llama, {"qkv_bias": True, "rope_base": 1e6}),
    "qwen3": (Llama, {"qk_norm": True, "n_kv_head": 2}),
    "phi3": (Llama, {"window": 7}),
}


def make_theirs(kind: str, **changed) -> nn.Module:
    name, settings = THEIRS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**COMMON | settings | changed)
    classes = {"GPT2": "GPT2LMHeadModel", "OpenAIGPT": "OpenAIGPTLMHeadModel"}
    model = getattr(transformers, classes.get(name, f"{name}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


@pytest.fixture(scope="module", params=THEIRS)
def pair(request, tmp_path_factory):
    """A model of theirs, and ours read from what it saved, in several files."""
    theirs = make_theirs(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return theirs, load_model(str(folder)), folder


def tokens(rows: int = 3, length: int = T) -> torch.Tensor:
    return torch.randint(3, V, (rows, length), generator=torch.Generator().manual_seed(1))


def test_logits(pair):
    theirs, ours, _ = pair
    with torch.no_grad():
        expected_BTV = theirs(tokens()).logits
        assert expected_BTV.std() > 0.5
        torch.testing.assert_close(ours(tokens()), expected_BTV, atol=1e-4, rtol=0)


def test_loss_and_gradients(pair):
    theirs, ours, folder = pair
    labels_BT = tokens()
    labels_BT[0, 20:] = IGNORE_INDEX  # theirs shifts the labels itself
    expected = theirs(tokens(), labels=labels_BT).loss
    loss = ours.loss(tokens()[:, :-1], labels_BT[:, 1:])
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    theirs.zero_grad(), ours.zero_grad()
    expected.backward(), loss.backward()
    # Gradients take the way of the weights: written by their names, read by ours.
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    theirs.save_pretrained(folder / "gradients")
    read = dict(load_model(str(folder / "gradients")).named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, read[name].detach(), atol=1e-3, rtol=0, msg=name)
        assert parameter.grad.abs().max() > 0, name
    theirs.load_state_dict(type(theirs).from_pretrained(folder).state_dict())


def test_greedy_text(pair):
    theirs, ours, _ = pair
    for seed in range(3):
        prompt_T = torch.randint(3, V, (5,), generator=torch.Generator().manual_seed(seed))
        # Their end of text would end the text early.
        found = [int(token_B[0]) for token_B in generate(ours, prompt_T, 64, temperature=0, forbidden_ids=[2])]
        expected = theirs.generate(
            prompt_T[None],
            attention_mask=torch.ones(1, 5),
            do_sample=False,
            max_new_tokens=64,
            suppress_tokens=[2],
        )
        assert found == expected[0, 5:].tolist() and len(found) == 64


def test_what_was_read_is_written_bit_for_bit(pair, tmp_path):
    _, ours, folder = pair
    node = architecture(str(folder))
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    write_model(tmp_path, ours, find_format(ours, node, model_type), node, IDS)
    again = load_model(str(tmp_path))
    for name, parameter in ours.named_parameters():
        assert torch.equal(dict(again.named_parameters())[name], parameter), name
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert theirs.keys() == written.keys()
    assert all(torch.equal(theirs[name], written[name]) for name in theirs)


@pytest.mark.parametrize("kind", OURS)
def test_ours_in_transformers(kind, tmp_path):
    torch.manual_seed(0)
    family, changed = OURS[kind]
    settings = {"vocab_size": V, "block_size": T, "n_layer": 2, "n_head": 4, "n_embd": 32} | changed
    model = family(**settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    form = find_format(model, settings, kind if kind == "phi3" else None)
    assert form.model_type == kind.partition("-")[0] or form.model_type == kind
    write_model(tmp_path, model, form, settings, {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == form.architecture
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()), theirs(tokens()).logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(load_model(str(tmp_path))(tokens()), model(tokens()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", THEIRS)
def test_the_epsilon_of_the_norms_is_kept_or_taken_by_default(kind):
    """A small difference, which weights far from zero hide; so it is compared by itself."""
    name, settings = THEIRS[kind]
    key = "layer_norm_epsilon" if "gpt" in kind else "rms_norm_eps"
    for given in ({key: 0.03}, {}):
        config = getattr(transformers, f"{name}Config")(**COMMON | settings | given)
        form = FORMATS[config.model_type]
        read = form.settings(config.to_dict())
        assert read["norm_eps"] == getattr(config, key)
        whole = {**defaults_of(form.target), **read}
        assert form.config(whole)[key] == read["norm_eps"]
        without = {key_: value for key_, value in config.to_dict().items() if key_ != key}
        if not given:
            assert form.settings(without)["norm_eps"] == getattr(config, key)


@pytest.mark.parametrize(
    ("family", "settings", "model_type", "message"),
    [
        (GPT, {"positions": "sinusoidal"}, None, "model.positions=sinusoidal has no counterpart in gpt2"),
        (GPT, {"norm": "post"}, None, "model.activation=gelu has no counterpart in openai-gpt"),
        (GPT, {"norm": "post", "activation": "relu", "n_inner": 5}, "openai-gpt", "model.n_inner=5 has no counterpart"),
        (GPT, {}, "llama", "GPT has no counterpart in llama"),
        (GPT, {}, "mamba", "format=mamba is unknown: choose one of gpt2, openai-gpt, llama"),
        (Llama, {"window": 5}, "llama", "model.window=5 has no counterpart in llama"),
        (Llama, {"window": 5, "qkv_bias": True}, None, "model.window=5 has no counterpart in qwen2"),
        (Llama, {"ngrams": 3}, "llama", "model.ngrams=3 has no counterpart in llama"),
        (Llama, {"qk_norm": True}, "mistral", "model.qk_norm=True has no counterpart in mistral"),
        (Llama, {"head_size": 4}, "phi3", "model.head_size=4 has no counterpart in phi3"),
        (Bigram, {}, None, "Bigram has no counterpart in transformers"),
    ],
)
def test_what_has_no_counterpart_is_refused(family, settings, model_type, message):
    sizes = {"vocab_size": V, "block_size": T, "n_layer": 2, "n_head": 4, "n_embd": 32}
    own = sizes if family is not Bigram else {"vocab_size": V, "block_size": T}
    model = family(**own | settings)
    with pytest.raises(ConfigError) as error:
        find_format(model, sizes | settings, model_type)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_family_is_known_by_the_name_configurations_use():
    for target, family in FAMILIES.items():
        assert target == f"{family.__module__}.{family.__name__}"
