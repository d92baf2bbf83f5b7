"""The encoder-decoders of `transformers` in settings of ours: T5."""

from typing import Any

from molino.base.errors import CheckpointError, ConfigError
from molino.hub.format import Config, Format, Stored, expect, require

T5 = "molino.models.t5.T5"
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


def _t5_settings(config: Config) -> dict[str, Any]:
    expect(config, num_decoder_layers=config["num_layers"], is_decoder=False)
    projection = config.get("feed_forward_proj", "relu")
    if projection not in PROJECTIONS:
        known = ", ".join(PROJECTIONS)
        raise CheckpointError(f"says feed_forward_proj={projection}, which molino cannot express: only {known}")
    activation, gated = PROJECTIONS[projection]
    return {
        "vocab_size": config["vocab_size"],
        "block_size": config.get("n_positions", 512),  # nothing but habit: distances have no end
        "n_layer": config["num_layers"],
        "n_head": config["num_heads"],
        "n_embd": config["d_model"],
        "head_size": config["d_kv"],
        "n_inner": config["d_ff"],
        "activation": activation,
        "gated": gated,
        # transformers 5 always says that weights are tied, and in another entry whether they are as in T5 1.0.
        "tie_weights": config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True)) is not False,
        "buckets": config.get("relative_attention_num_buckets", 32),
        "max_distance": config.get("relative_attention_max_distance", 128),
        "norm_eps": config.get("layer_norm_epsilon", 1e-6),
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
        "scale_decoder_outputs": settings["tie_weights"],
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
    # A head that is the table without being scaled as that of T5 1.0: transformers 5 makes such ones.
    other_names={r"^lm_head\.weight$": "shared.weight"},
    unused=T5_UNUSED,
)
