"""What config.json leaves out is what the classes of `transformers` take for it: their own defaults, key by key."""

import pytest
import torch
import transformers

from molino.base.errors import CheckpointError
from molino.hub.formats import FORMATS
from molino.hub.read import load_model

GPT = {"vocab_size": 41, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 0.01}
LLAMA = {
    "vocab_size": 41, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 24, "pad_token_id": 0, "rms_norm_eps": 0.01,
    "tie_word_embeddings": True,
}  # fmt: skip
BART = {
    **{f"{stack}_{name}": size for stack in ("encoder", "decoder")
       for name, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))},
    "vocab_size": 41, "d_model": 32, "max_position_embeddings": 24, "scale_embedding": True, "pad_token_id": 0,
    "activation_function": "relu",
}  # fmt: skip
# A configuration of each, as little as may be of it like the defaults.
THEIRS = {
    "gpt2": ("GPT2", GPT | {"n_inner": 48, "activation_function": "relu", "tie_word_embeddings": False}),
    "openai-gpt": ("OpenAIGPT", GPT | {"afn": "relu", "tie_word_embeddings": False}),
    "llama": ("Llama", LLAMA | {"head_dim": 16}),
    "mistral": ("Mistral", LLAMA | {"head_dim": 16, "sliding_window": 5}),
    "qwen2": ("Qwen2", LLAMA),
    "qwen3": ("Qwen3", LLAMA | {"head_dim": 16}),
    "phi3": ("Phi3", LLAMA | {"sliding_window": 5}),
    "bert": ("Bert", {
        "vocab_size": 41, "max_position_embeddings": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "hidden_size": 48, "intermediate_size": 64, "hidden_act": "relu", "layer_norm_eps": 0.01,
    }),
    "t5": ("T5", {
        "vocab_size": 41, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "layer_norm_epsilon": 0.01,
        "feed_forward_proj": "gated-gelu",
    }),
    "marian": ("Marian", BART),
    "pegasus": ("Pegasus", BART),
}  # fmt: skip


def settings_of(model_type: str, config: dict) -> dict | None:
    """What we read of a config.json; None where it is refused."""
    try:
        return FORMATS[model_type].settings(config)
    except CheckpointError:
        return None


def test_each_architecture_is_looked_at():
    assert THEIRS.keys() == FORMATS.keys()


@pytest.mark.parametrize("model_type", THEIRS)
def test_a_key_that_is_left_out_is_what_their_class_takes_for_it(model_type):
    name, said = THEIRS[model_type]
    family = getattr(transformers, f"{name}Config")
    # Kinds of layers follow from how many there are.
    whole = {key: value for key, value in family(**said).to_dict().items() if key != "layer_types"}
    without = {key: {k: v for k, v in whole.items() if k != key} for key in whole if key != "model_type"}
    if "rope_parameters" in whole:
        inner = {k: v for k, v in whole["rope_parameters"].items() if k != "rope_theta"}
        without["rope_theta"] = whole | {"rope_parameters": inner}
    without["all"] = {"model_type": model_type}
    told = 0
    for key, config in without.items():
        theirs = family.from_dict(config).to_dict()
        read, expected = settings_of(model_type, config), settings_of(model_type, theirs)
        if read is not None and expected is not None:
            # One may say by null what the other spells out.
            assert resolved(read) == resolved(expected), key
            told += resolved(read) != resolved(FORMATS[model_type].settings(whole))
        else:
            assert read is expected, key
    assert told >= 5, "most keys that are left out change something"


def resolved(settings: dict) -> dict:
    """Settings with what the class here takes for null."""
    if "n_kv_head" not in settings:
        return settings
    usual = {"n_kv_head": settings["n_head"], "head_size": settings["n_embd"] // settings["n_head"]}
    return settings | {name: usual[name] for name in usual if settings[name] is None}


def test_logits_of_a_phi3_that_does_not_say_its_epsilon(tmp_path):
    torch.manual_seed(0)
    said = {key: value for key, value in THEIRS["phi3"][1].items() if key != "rms_norm_eps"} | {
        "initializer_range": 0.01
    }
    theirs = transformers.Phi3ForCausalLM(transformers.Phi3Config(**said)).eval()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    lines = [line for line in path.read_text("utf-8").splitlines() if "rms_norm_eps" not in line]
    path.write_text("\n".join(lines), "utf-8")
    tokens_BT = torch.randint(3, 41, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        again = transformers.Phi3ForCausalLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(load_model(str(tmp_path))(tokens_BT), again(tokens_BT).logits, atol=1e-6, rtol=0)
