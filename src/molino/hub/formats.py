"""What each architecture of `transformers` is in settings of our families, and how it names and stores its weights.

A weight of ours is one of theirs, or the rows of several one below the other (our projections that read the same input
are fused); GPT-1 and GPT-2 store their matrices as (in, out), ours are (out, in).
"""

import re
from typing import Any

from molino.base.errors import CheckpointError, ConfigError
from molino.hub.encoder_decoders import MARIAN_FORMAT, PEGASUS_FORMAT, T5_FORMAT
from molino.hub.encoders import BERT_FORMAT
from molino.hub.format import ACTIVATIONS, Config, Format, Stored, activation_of, expect, named_activation, require

GPT = "molino.models.gpt.GPT"
LLAMA = "molino.models.llama.Llama"
CONV1D = r"\.(c_attn|c_proj|c_fc)\.weight$"
# OpenAI's first model means the tanh approximation where it says gelu.
GPT1_ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu"}

# What the classes of transformers take where config.json says nothing.
GPT_DEFAULTS = {
    "n_layer": 12, "n_head": 12, "n_embd": 768, "n_inner": None, "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}  # fmt: skip
GPT2_DEFAULTS = GPT_DEFAULTS | {"vocab_size": 50257, "n_positions": 1024, "activation_function": "gelu_new"}
GPT1_DEFAULTS = GPT_DEFAULTS | {"vocab_size": 40478, "n_positions": 512, "afn": "gelu"}
LLAMA_DEFAULTS = {
    "vocab_size": 32000, "max_position_embeddings": 2048, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": None, "head_dim": None, "hidden_size": 4096, "intermediate_size": 11008,
    "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
MISTRAL_DEFAULTS = LLAMA_DEFAULTS | {
    "max_position_embeddings": 131072, "num_key_value_heads": 8, "intermediate_size": 14336, "sliding_window": 4096,
}  # fmt: skip
QWEN2_DEFAULTS = LLAMA_DEFAULTS | {
    "vocab_size": 151936, "max_position_embeddings": 32768, "num_key_value_heads": 32, "intermediate_size": 22016,
}  # fmt: skip
QWEN3_DEFAULTS = QWEN2_DEFAULTS | {"head_dim": 128}
PHI3_DEFAULTS = LLAMA_DEFAULTS | {
    "vocab_size": 32064, "max_position_embeddings": 4096, "hidden_size": 3072, "intermediate_size": 8192,
    "rms_norm_eps": 1e-5, "sliding_window": None,
}  # fmt: skip

# GPT-1 and GPT-2


def _gpt2_settings(config: Config) -> dict[str, Any]:
    expect(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    return {
        **_gpt_sizes(config),
        "n_inner": config["n_inner"],
        "norm": "pre",
        "activation": activation_of(config, "activation_function", ACTIVATIONS),
    }


def _gpt1_settings(config: Config) -> dict[str, Any]:
    return {
        **_gpt_sizes(config),
        "n_inner": None,
        "norm": "post",
        "activation": activation_of(config, "afn", GPT1_ACTIVATIONS),
    }


def _gpt_sizes(config: Config) -> dict[str, Any]:
    return {
        "vocab_size": config["vocab_size"],
        "block_size": config["n_positions"],
        "n_layer": config["n_layer"],
        "n_head": config["n_head"],
        "n_embd": config["n_embd"],
        "tie_weights": config["tie_word_embeddings"],
        "norm_eps": config["layer_norm_epsilon"],
    }


def _gpt_config(settings: Config, model_type: str) -> dict[str, Any]:
    require(settings, model_type, positions="learned", scale_embeddings=False)
    return {
        "vocab_size": settings["vocab_size"],
        "n_positions": settings["block_size"],
        "n_layer": settings["n_layer"],
        "n_head": settings["n_head"],
        "n_embd": settings["n_embd"],
        "tie_word_embeddings": settings["tie_weights"],
        "layer_norm_epsilon": settings["norm_eps"],
        **{f"{place}_pdrop": settings["dropout"] for place in ("embd", "attn", "resid")},
    }


def _gpt2_config(settings: Config) -> dict[str, Any]:
    require(settings, "gpt2", norm="pre")
    activation = named_activation(settings, ACTIVATIONS, "gpt2")
    return {**_gpt_config(settings, "gpt2"), "n_inner": settings["n_inner"], "activation_function": activation}


def _gpt1_config(settings: Config) -> dict[str, Any]:
    require(settings, "openai-gpt", norm="post")
    if settings["n_inner"] not in (None, 4 * settings["n_embd"]):
        raise ConfigError(f"model.n_inner={settings['n_inner']} has no counterpart in openai-gpt, only 4 * n_embd")
    return {**_gpt_config(settings, "openai-gpt"), "afn": named_activation(settings, GPT1_ACTIVATIONS, "openai-gpt")}


def _gpt2_stored(name: str) -> Stored:
    return Stored((name,), transposed=re.search(CONV1D, name) is not None)


def _gpt1_stored(name: str) -> Stored:
    theirs = {"wte.weight": "tokens_embed.weight", "wpe.weight": "positions_embed.weight"}.get(name, name)
    return Stored((theirs,), transposed=re.search(CONV1D, name) is not None)


# Llama and its kin


def _llama_settings(config: Config) -> dict[str, Any]:
    expect(config, hidden_act="silu", attention_bias=False, mlp_bias=False, partial_rotary_factor=1.0)
    rope = {"rope_theta": config["rope_theta"], **(config.get("rope_parameters") or {})}
    scaling = config.get("rope_scaling") or rope
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(f"scales its rotary positions ({kind}), which molino cannot express")
    return {
        "vocab_size": config["vocab_size"],
        "block_size": config["max_position_embeddings"],
        "n_layer": config["num_hidden_layers"],
        "n_head": config["num_attention_heads"],
        "n_embd": config["hidden_size"],
        "n_kv_head": config["num_key_value_heads"],
        "head_size": config["head_dim"],
        "n_inner": config["intermediate_size"],
        "window": None,
        "qkv_bias": False,
        "rope_base": float(rope["rope_theta"]),
        "norm_eps": config["rms_norm_eps"],
        "tie_weights": config["tie_word_embeddings"],
    }


def _windowed_settings(config: Config) -> dict[str, Any]:
    return {**_llama_settings(config), "window": config["sliding_window"]}


def _qwen2_settings(config: Config) -> dict[str, Any]:
    expect(config, use_sliding_window=False)
    return {**_llama_settings(config), "qkv_bias": True}


def _qwen3_settings(config: Config) -> dict[str, Any]:
    expect(config, use_sliding_window=False)
    return {**_llama_settings(config), "qk_norm": True}


def _llama_config(settings: Config) -> dict[str, Any]:
    require(settings, "llama", qkv_bias=False, qk_norm=False, window=None, ngrams=1)
    return _llama_sizes(settings)


def _windowed_config(settings: Config, model_type: str) -> dict[str, Any]:
    require(settings, model_type, qkv_bias=False, qk_norm=False, ngrams=1)
    return {**_llama_sizes(settings), "sliding_window": settings["window"]}


def _mistral_config(settings: Config) -> dict[str, Any]:
    return _windowed_config(settings, "mistral")


def _phi3_config(settings: Config) -> dict[str, Any]:
    if settings["head_size"] not in (None, settings["n_embd"] // settings["n_head"]):
        raise ConfigError(f"model.head_size={settings['head_size']} has no counterpart in phi3, only n_embd / n_head")
    return _windowed_config(settings, "phi3")


def _qwen2_config(settings: Config) -> dict[str, Any]:
    require(settings, "qwen2", qkv_bias=True, qk_norm=False, window=None, ngrams=1)
    return {**_llama_sizes(settings), "use_sliding_window": False}


def _qwen3_config(settings: Config) -> dict[str, Any]:
    require(settings, "qwen3", qkv_bias=False, qk_norm=True, window=None, ngrams=1)
    return {**_llama_sizes(settings), "attention_bias": False, "use_sliding_window": False}


def _llama_sizes(settings: Config) -> dict[str, Any]:
    head_size = settings["head_size"] or settings["n_embd"] // settings["n_head"]
    return {
        "vocab_size": settings["vocab_size"],
        "max_position_embeddings": settings["block_size"],
        "num_hidden_layers": settings["n_layer"],
        "num_attention_heads": settings["n_head"],
        "num_key_value_heads": settings["n_kv_head"] or settings["n_head"],
        "head_dim": head_size,
        "hidden_size": settings["n_embd"],
        "intermediate_size": settings["n_inner"],
        "hidden_act": "silu",
        # Both spellings: transformers 5 reads rope_parameters, earlier ones rope_theta.
        "rope_theta": settings["rope_base"],
        "rope_parameters": {"rope_type": "default", "rope_theta": settings["rope_base"]},
        "rms_norm_eps": settings["norm_eps"],
        "tie_word_embeddings": settings["tie_weights"],
        "attention_dropout": settings["dropout"],
    }


def _split_stored(name: str) -> Stored:
    for fused, parts in (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("gate_up_proj", ("gate_proj", "up_proj"))):
        if f".{fused}." in name:
            return Stored(tuple(name.replace(fused, part) for part in parts))
    return Stored((name,))


def _fused_stored(name: str) -> Stored:
    return Stored((name,))


def _gpt(model_type: str, name: str, read: Any, config: Any, stored: Any, defaults: Config) -> Format:
    return Format(model_type, f"{name}LMHeadModel", GPT, read, config, stored, defaults, "transformer.")


def _llama(model_type: str, name: str, read: Any, config: Any, defaults: Config, stored: Any = _split_stored) -> Format:
    return Format(model_type, f"{name}ForCausalLM", LLAMA, read, config, stored, defaults, "model.")


# In the order in which an export tries them.
FORMATS = {
    form.model_type: form
    for form in (
        _gpt("gpt2", "GPT2", _gpt2_settings, _gpt2_config, _gpt2_stored, GPT2_DEFAULTS),
        _gpt("openai-gpt", "OpenAIGPT", _gpt1_settings, _gpt1_config, _gpt1_stored, GPT1_DEFAULTS),
        _llama("llama", "Llama", _llama_settings, _llama_config, LLAMA_DEFAULTS),
        _llama("mistral", "Mistral", _windowed_settings, _mistral_config, MISTRAL_DEFAULTS),
        _llama("qwen2", "Qwen2", _qwen2_settings, _qwen2_config, QWEN2_DEFAULTS),
        _llama("qwen3", "Qwen3", _qwen3_settings, _qwen3_config, QWEN3_DEFAULTS),
        _llama("phi3", "Phi3", _windowed_settings, _phi3_config, PHI3_DEFAULTS, _fused_stored),
        BERT_FORMAT,
        T5_FORMAT,
        MARIAN_FORMAT,
        PEGASUS_FORMAT,
    )
}
