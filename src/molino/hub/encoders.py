"""The encoders of `transformers` in settings of ours: BERT."""

from typing import Any

from molino.hub.format import ACTIVATIONS, Config, Format, Stored, activation_of, expect, named_activation, require

BERT = "molino.models.bert.BERT"
EMBEDDINGS = {
    "wte": "word_embeddings",
    "wpe": "position_embeddings",
    "wse": "token_type_embeddings",
    "ln_e": "LayerNorm",
}
IN_BLOCKS = {
    "attn.c_proj": "attention.output.dense", "ln_1": "attention.output.LayerNorm",
    "mlp.c_fc": "intermediate.dense", "mlp.c_proj": "output.dense", "ln_2": "output.LayerNorm",
}  # fmt: skip
HEAD = {
    "transform.0.weight": "transform.dense.weight", "transform.0.bias": "transform.dense.bias",
    "transform.2.weight": "transform.LayerNorm.weight", "transform.2.bias": "transform.LayerNorm.bias",
    "lm_head.weight": "decoder.weight", "lm_head.bias": "bias",
}  # fmt: skip
DEFAULTS = {
    "vocab_size": 30522, "max_position_embeddings": 512, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_size": 768, "intermediate_size": 3072, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "tie_word_embeddings": True,
}  # fmt: skip
# The head that tells whether two sentences follow each other, places, and the head's table a second time.
UNUSED = r"^(bert\.pooler\.|cls\.seq_relationship\.|bert\.embeddings\.position_ids$|cls\.predictions\.decoder\.)"


def _settings(config: Config) -> dict[str, Any]:
    expect(config, is_decoder=False, add_cross_attention=False, type_vocab_size=2)
    expect(config, position_embedding_type="absolute")
    return {
        "vocab_size": config["vocab_size"],
        "block_size": config["max_position_embeddings"],
        "n_layer": config["num_hidden_layers"],
        "n_head": config["num_attention_heads"],
        "n_embd": config["hidden_size"],
        "n_inner": config["intermediate_size"],
        "positions": "learned",
        "norm": "post",
        "activation": activation_of(config, "hidden_act", ACTIVATIONS),
        "norm_eps": config["layer_norm_eps"],
        "tie_weights": config["tie_word_embeddings"],
    }


def _config(settings: Config) -> dict[str, Any]:
    require(settings, "bert", positions="learned", norm="post")
    return {
        "vocab_size": settings["vocab_size"],
        "max_position_embeddings": settings["block_size"],
        "num_hidden_layers": settings["n_layer"],
        "num_attention_heads": settings["n_head"],
        "hidden_size": settings["n_embd"],
        "intermediate_size": settings["n_inner"] or 4 * settings["n_embd"],
        "hidden_act": named_activation(settings, ACTIVATIONS, "bert"),
        "type_vocab_size": 2,
        "layer_norm_eps": settings["norm_eps"],
        "tie_word_embeddings": settings["tie_weights"],
        "hidden_dropout_prob": settings["dropout"],
        "attention_probs_dropout_prob": settings["dropout"],
    }


def _stored(name: str) -> Stored:
    if name in HEAD:
        return Stored((f"cls.predictions.{HEAD[name]}",))
    owner, _, kind = name.rpartition(".")
    if owner in EMBEDDINGS:
        return Stored((f"bert.embeddings.{EMBEDDINGS[owner]}.{kind}",))
    _, number, part = owner.split(".", 2)
    parts = (
        [f"attention.self.{each}" for each in ("query", "key", "value")] if part == "attn.c_attn" else [IN_BLOCKS[part]]
    )
    return Stored(tuple(f"bert.encoder.layer.{number}.{each}.{kind}" for each in parts))


BERT_FORMAT = Format(
    "bert",
    "BertForMaskedLM",
    BERT,
    _settings,
    _config,
    _stored,
    DEFAULTS,
    # TensorFlow's names of a norm's parts.
    other_names={r"LayerNorm\.weight$": "LayerNorm.gamma", r"LayerNorm\.bias$": "LayerNorm.beta"},
    unused=UNUSED,
    again={"lm_head.bias": ("cls.predictions.decoder.bias",)},
    again_needed=True,
)
