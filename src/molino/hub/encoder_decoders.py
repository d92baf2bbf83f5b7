"""The encoder-decoders of `transformers` in settings of ours: T5, and the transformer of 2017 as Marian and Pegasus."""

from functools import partial
from typing import Any

from molino.base.errors import CheckpointError, ConfigError
from molino.hub.format import ACTIVATIONS, Config, Format, Stored, activation_of, expect, named_activation, require

T5, TRANSFORMER = "molino.models.t5.T5", "molino.models.transformer.Transformer"
# Their name of an MLP: our activation, and whether it is gated.
PROJECTIONS = {
    "relu": ("relu", False), "gelu": ("gelu", False), "gelu_new": ("gelu_tanh", False),
    "gated-gelu": ("gelu_tanh", True), "gated-gelu_new": ("gelu_tanh", True), "gated-relu": ("relu", True),
}  # fmt: skip
T5_ATTENTION = {
    "attn.c_attn": ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v"), "attn.c_proj": ("SelfAttention.o",),
    "cross.c_q": ("EncDecAttention.q",), "cross.c_kv": ("EncDecAttention.k", "EncDecAttention.v"),
    "cross.c_proj": ("EncDecAttention.o",),
}  # fmt: skip
T5_MLP = {"c_fc": ("wi",), "gate_up_proj": ("wi_0", "wi_1"), "c_proj": ("wo",)}
# A table that the first of them had and never used, and tables of tokens under further names.
T5_UNUSED = r"(EncDecAttention\.relative_attention_bias\.weight|^(en|de)coder\.embed_tokens\.weight)$"
IN_BLOCKS = {
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "attn.c_proj": ("self_attn.out_proj",),
    "cross.c_q": ("encoder_attn.q_proj",), "cross.c_kv": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "cross.c_proj": ("encoder_attn.out_proj",), "mlp.c_fc": ("fc1",), "mlp.c_proj": ("fc2",),
}  # fmt: skip
NORMS = {"encoder": ("self_attn", "final"), "decoder": ("self_attn", "encoder_attn", "final")}
# Positions, which can be computed, and the one table of tokens under further names.
UNUSED = r"^(model\.(en|de)coder\.embed_(positions|tokens)\.weight|lm_head\.weight)$"
# transformers computes those of Pegasus as well, but says of a file without them that it lacks something.
POSITIONS = {"decoder.wpe.table": tuple(f"model.{stack}.embed_positions.weight" for stack in ("encoder", "decoder"))}
# The one table of tokens under further names.
T5_TABLES = {"encoder.wte.weight": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")}
TABLES = {name: tuple(f"model.{each}" for each in names) for name, names in T5_TABLES.items()}
# What both have by construction: of settings that say otherwise there is no counterpart.
ALWAYS = {"positions": "sinusoidal_halves", "share_tables": True, "norm_eps": 1e-5}
# What the classes of transformers take where config.json says nothing.
T5_DEFAULTS = {
    "vocab_size": 32128, "num_layers": 6, "num_heads": 8, "d_model": 512, "d_kv": 64, "d_ff": 2048,
    "feed_forward_proj": "relu", "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "n_positions": 512,  # nothing but habit: distances have no end, and the class knows no such entry
}  # fmt: skip
DEFAULTS = {
    "max_position_embeddings": 1024, "d_model": 1024, "activation_function": "gelu", "scale_embedding": False,
    "tie_word_embeddings": True,
    **{f"{stack}_{name}": size for stack in ("encoder", "decoder")
       for name, size in (("layers", 12), ("attention_heads", 16), ("ffn_dim", 4096))},
}  # fmt: skip


def _t5_settings(config: Config) -> dict[str, Any]:
    expect(config, num_decoder_layers=config["num_layers"], is_decoder=False)
    projection = config["feed_forward_proj"]
    if projection not in PROJECTIONS:
        known = ", ".join(PROJECTIONS)
        raise CheckpointError(f"says feed_forward_proj={projection}, which molino cannot express: only {known}")
    activation, gated = PROJECTIONS[projection]
    return {
        "vocab_size": config["vocab_size"],
        "block_size": config["n_positions"],
        "n_layer": config["num_layers"],
        "n_head": config["num_heads"],
        "n_embd": config["d_model"],
        "head_size": config["d_kv"],
        "n_inner": config["d_ff"],
        "activation": activation,
        "gated": gated,
        # transformers 5 always says that weights are tied, and in another entry whether they are as in T5 1.0.
        "tie_weights": config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True)) is not False,
        "buckets": config["relative_attention_num_buckets"],
        "max_distance": config["relative_attention_max_distance"],
        "norm_eps": config["layer_norm_epsilon"],
    }


def _t5_config(settings: Config) -> dict[str, Any]:
    require(settings, "t5", share_tables=True)
    wanted = (settings["activation"], settings["gated"])
    projection = next((name for name, ours in PROJECTIONS.items() if ours == wanted), None)
    if projection is None:
        raise ConfigError("model.activation={} with model.gated={} has no counterpart in t5".format(*wanted))
    return {
        "vocab_size": settings["vocab_size"],
        "n_positions": settings["block_size"],
        "num_layers": settings["n_layer"],
        "num_decoder_layers": settings["n_layer"],
        "num_heads": settings["n_head"],
        "d_model": settings["n_embd"],
        "d_kv": settings["head_size"] or settings["n_embd"] // settings["n_head"],
        "d_ff": settings["n_inner"] or 4 * settings["n_embd"],
        "feed_forward_proj": projection,
        "is_encoder_decoder": True,
        # Both spellings, as above.
        "tie_word_embeddings": settings["tie_weights"],
        "scale_decoder_outputs": settings["tie_weights"] if settings["scale_head"] is None else settings["scale_head"],
        "relative_attention_num_buckets": settings["buckets"],
        "relative_attention_max_distance": settings["max_distance"],
        "layer_norm_epsilon": settings["norm_eps"],
        "dropout_rate": settings["dropout"],
    }


def _t5_stored(name: str) -> Stored:
    if name == "lm_head.weight":
        return Stored((name,))
    stack, _, part = name.removesuffix(".weight").partition(".")
    if part == "wte":
        return Stored(("shared.weight",))
    if part == "relative":
        return Stored((f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",))
    if part == "ln_f":
        return Stored((f"{stack}.final_layer_norm.weight",))
    _, number, part = part.split(".", 2)
    if part.startswith("ln_"):
        layer, parts = int(part[-1]) - 1, ("layer_norm",)
    elif part.startswith("mlp."):
        layer, inner = 1 if stack == "encoder" else 2, T5_MLP[part.removeprefix("mlp.")]
        parts = tuple(f"DenseReluDense.{each}" for each in inner)
    else:
        layer, parts = int(part.startswith("cross.")), T5_ATTENTION[part]
    return Stored(tuple(f"{stack}.block.{number}.layer.{layer}.{each}.weight" for each in parts))


T5_FORMAT = Format(
    "t5",
    "T5ForConditionalGeneration",
    T5,
    _t5_settings,
    _t5_config,
    _t5_stored,
    T5_DEFAULTS,
    # A head that is the table without being scaled as that of T5 1.0: transformers 5 makes such ones.
    other_names={r"^lm_head\.weight$": "shared.weight"},
    unused=T5_UNUSED,
    again=T5_TABLES,
    own_head={"scale_head": True},
)


# Marian (Junczys-Dowmunt et al. 2018) has its norms behind the sums, Pegasus (Zhang et al. 2020) before the branches.


def _settings(config: Config, norm: str) -> dict[str, Any]:
    for size in ("layers", "attention_heads", "ffn_dim"):
        expect(config, **{f"decoder_{size}": config[f"encoder_{size}"]})
    expect(config, share_encoder_decoder_embeddings=True, is_decoder=False)
    expect(config, decoder_vocab_size=config["vocab_size"])
    return {
        "vocab_size": config["vocab_size"],
        "block_size": config["max_position_embeddings"],
        "n_layer": config["encoder_layers"],
        "n_head": config["encoder_attention_heads"],
        "n_embd": config["d_model"],
        "n_inner": config["encoder_ffn_dim"],
        "norm": norm,
        "activation": activation_of(config, "activation_function", ACTIVATIONS),
        "scale_embeddings": config["scale_embedding"],
        "tie_weights": config["tie_word_embeddings"],
        "head_bias": True,
        **ALWAYS,
    }


def _config(settings: Config, model_type: str, norm: str) -> dict[str, Any]:
    require(settings, model_type, norm=norm, **ALWAYS)
    sizes = {
        "layers": settings["n_layer"],
        "attention_heads": settings["n_head"],
        "ffn_dim": settings["n_inner"] or 4 * settings["n_embd"],
    }
    return {
        "vocab_size": settings["vocab_size"],
        "max_position_embeddings": settings["block_size"],
        **{f"{stack}_{name}": size for stack in ("encoder", "decoder") for name, size in sizes.items()},
        "d_model": settings["n_embd"],
        "activation_function": named_activation(settings, ACTIVATIONS, model_type),
        "scale_embedding": settings["scale_embeddings"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": settings["tie_weights"],
        "dropout": settings["dropout"],
        "attention_dropout": settings["dropout"],
        # A length alone never ends a target.
        "forced_eos_token_id": None,
    }


def _stored(name: str) -> Stored:
    if name == "lm_head.weight":
        return Stored((name,))
    if name == "lm_head.bias":
        return Stored(("final_logits_bias",), one_row=True)
    owner, _, kind = name.rpartition(".")
    stack, _, part = owner.partition(".")
    if part == "wte":
        return Stored(("model.shared.weight",))
    if part == "ln_f":
        return Stored((f"model.{stack}.layer_norm.{kind}",))
    _, number, part = part.split(".", 2)
    norm = part.startswith("ln_")
    parts = (f"{NORMS[stack][int(part[-1]) - 1]}_layer_norm",) if norm else IN_BLOCKS[part]
    return Stored(tuple(f"model.{stack}.layers.{number}.{each}.{kind}" for each in parts))


def _format(model_type: str, architecture: str, norm: str, vocab_size: int) -> Format:
    config, settings = partial(_config, model_type=model_type, norm=norm), partial(_settings, norm=norm)
    defaults = DEFAULTS | {"vocab_size": vocab_size}
    told = {"unused": UNUSED, "computed": POSITIONS, "again": TABLES, "again_needed": True}
    return Format(model_type, architecture, TRANSFORMER, settings, config, _stored, defaults, **told)


MARIAN_FORMAT = _format("marian", "MarianMTModel", "post", 58101)
PEGASUS_FORMAT = _format("pegasus", "PegasusForConditionalGeneration", "pre", 50265)
