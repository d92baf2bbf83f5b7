"""BERT to and from `transformers`: logits, gradients, folders with more than is needed, and what fills a mask."""

import pytest
import tokenizers
import torch
import transformers
from conftest import CPU
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from torch import nn

from molino.base.errors import CheckpointError, ConfigError
from molino.data.examples import Example
from molino.data.tokenizers import Tokenizer, train_bpe
from molino.hub.read import architecture, load_model, read_weights
from molino.hub.write import find_format, write_model
from molino.models.bert import BERT
from molino.models.shapes import shapes_only
from molino.runs import directory
from molino.trained.folder import load_source
from molino.trained.load import load_run
from molino.trained.predicting import answers_of

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "##s",
    "ran",
    ".",
    "and",
]
V, T = len(WORDS), 24
SIZES = {
    "vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": T, "initializer_range": 0.2,
}  # fmt: skip
OURS = {
    "vocab_size": V,
    "block_size": T,
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 32,
    "positions": "learned",
    "norm": "post",
}


def stirred(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def make_theirs(name: str = "BertForMaskedLM", **changed) -> nn.Module:
    torch.manual_seed(0)
    return stirred(getattr(transformers, name)(transformers.BertConfig(**SIZES | changed)))


def wordpiece() -> tokenizers.Tokenizer:
    """A tokenizer as BERT's are, of a few words."""
    ids = {word: id for id, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(WORDS[:5])
    frame = [("[CLS]", 2), ("[SEP]", 3)]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=frame)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole BERT as it was published: with the second head, and its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    make_theirs("BertForPreTraining").save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=wordpiece(), cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", pad_token="[PAD]",
        unk_token="[UNK]",
    ).save_pretrained(folder)  # fmt: skip
    return folder


def some_tokens(rows: int = 3, length: int = T) -> torch.Tensor:
    return torch.randint(1, V, (rows, length), generator=torch.Generator().manual_seed(1))  # theirs learns nothing of 0


@pytest.mark.parametrize("changed", [{}, {"hidden_act": "gelu_new"}, {"hidden_act": "relu", "layer_norm_eps": 0.03}])
def test_logits_and_gradients(changed, tmp_path):
    theirs = make_theirs(**changed)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    ours = load_model(str(tmp_path))
    tokens_BT, seen_BT = some_tokens(), torch.arange(T) < torch.tensor([24, 7, 1])[:, None]
    segments_BT = (torch.arange(T) > 3).long().expand(3, -1)
    expected_BTV = theirs(tokens_BT, seen_BT.long(), segments_BT).logits
    logits_BTV = ours(tokens_BT, seen_BT, segments_BT)
    assert expected_BTV.std() > 0.5
    torch.testing.assert_close(logits_BTV[seen_BT], expected_BTV[seen_BT], atol=1e-4, rtol=0)
    picked = torch.randn(logits_BTV.shape, generator=torch.Generator().manual_seed(2)) * seen_BT[..., None]
    (logits_BTV * picked).sum().backward()
    (expected_BTV * picked).sum().backward()
    # Gradients take the way of the weights: written by their names, read by ours.
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    read = dict(load_model(str(tmp_path / "gradients")).named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, read[name].detach(), atol=1e-3, rtol=1e-3, msg=name)
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("changed", [{}, {"activation": "gelu_tanh", "n_inner": 40, "norm_eps": 0.03, "dropout": 0.2}])
def test_ours_in_transformers_and_back(changed, tmp_path):
    torch.manual_seed(0)
    settings = OURS | changed
    model = stirred(BERT(**settings))
    form = find_format(model, settings)
    assert write_model(tmp_path, model, form, settings, {"pad_token_id": 0}) == "BertForMaskedLM"
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(model(some_tokens()), theirs(some_tokens()).logits, atol=1e-4, rtol=0)
    assert theirs.config.hidden_dropout_prob == settings.get("dropout", 0.0)
    again = load_model(str(tmp_path))
    for name, parameter in model.named_parameters():
        assert torch.equal(dict(again.named_parameters())[name], parameter), name
    read = architecture(str(tmp_path))
    assert {name: read[name] for name in settings if name != "dropout"} == {
        k: settings[k] for k in settings if k != "dropout"
    }


def test_what_a_folder_holds_beside_is_passed_over(folder, tmp_path):
    stored = load_file(folder / "model.safetensors")
    assert {"cls.seq_relationship.weight", "bert.pooler.dense.weight"} <= stored.keys()
    whole = load_model(str(folder)).state_dict()
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in stored.items()
    }
    older["bert.embeddings.position_ids"] = torch.arange(T)[None]
    older["cls.predictions.decoder.weight"] = stored["bert.embeddings.word_embeddings.weight"].clone()
    older["cls.predictions.decoder.bias"] = stored["cls.predictions.bias"].clone()
    save_file(older, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert all(torch.equal(whole[name], tensor) for name, tensor in load_model(str(tmp_path)).state_dict().items())
    older.pop("cls.predictions.bias")
    save_file(older, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, such as cls\.predictions\.bias"):
        load_model(str(tmp_path))


def test_tokens_beyond_those_of_the_folder_keep_their_rows(folder):
    model = BERT(**OURS | {"vocab_size": V + 2, "n_inner": 48})
    with torch.no_grad():
        model.lm_head.bias[V:] = 7.0
    before = model.wte.weight.detach().clone()
    read_weights(model, str(folder))
    assert torch.equal(model.wte.weight[V:], before[V:]) and model.lm_head.bias[V:].tolist() == [7.0, 7.0]
    assert torch.equal(model.wte.weight[:V], load_model(str(folder)).wte.weight)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"is_decoder": True}, "is_decoder=True"),
        ({"type_vocab_size": 3}, "type_vocab_size=3"),
        ({"hidden_act": "tanh"}, "hidden_act=tanh"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key"),
    ],
)
def test_what_the_family_cannot_express(changed, part, tmp_path):
    transformers.BertConfig(**SIZES | changed).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=part):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positions": "rotary"}, "model.positions=rotary has no counterpart in bert"),
        ({"norm": "pre"}, "model.norm=pre has no counterpart in bert"),
    ],
)
def test_what_has_no_counterpart_is_refused(changed, message):
    with shapes_only():
        model = BERT(**OURS | changed)
    with pytest.raises(ConfigError, match=message):
        find_format(model, OURS | changed)


def same_fillings(ours: dict, theirs: list[dict], tokenizer: Tokenizer) -> None:
    assert [tokenizer.token(each["token"]) for each in theirs] == list(ours["probabilities"])
    assert (ours["token"], ours["token_str"]) == (theirs[0]["token"], theirs[0]["token_str"])
    for each, p in zip(theirs, ours["probabilities"].values(), strict=True):
        assert p == pytest.approx(each["score"], rel=1e-4)


@pytest.mark.parametrize("text", ["the {} sat on a mat.", "{} ran", "a cat and the {}", "the dog{} ran and sat"])
@pytest.mark.parametrize("mask", ["<mask>", "[MASK]"])
def test_a_folder_fills_masks_as_the_pipeline_does(folder, text, mask):
    loaded = load_source(str(folder), torch.device("cpu"))
    fill = transformers.pipeline("fill-mask", model=str(folder), top_k=5)
    (ours,) = answers_of(loaded, [Example(text.format(mask))])
    same_fillings(ours, fill(text.format("[MASK]")), loaded.tokenizer)
    assert "[CLS]" not in ours["sequence"] and "[SEP]" not in ours["sequence"]


def test_of_a_long_text_what_is_around_the_mask_is_read_in_its_frame(folder):
    loaded = load_source(str(folder), torch.device("cpu"))
    (long,) = answers_of(loaded, [Example("the dog ran and " * 20 + "[MASK]" + " sat on a mat ." * 20)])
    # 22 tokens: 11 before the mask.
    read = ["and", "the", "dog", "ran", "and", "the", "dog", "ran", "and"]
    ids = [2, *(WORDS.index(word) for word in ["dog", "ran", *read]), 4]
    behind = ["sat", "on", "a", "mat", ".", "sat", "on", "a", "mat", "."]
    ids = torch.tensor([[*ids, *(WORDS.index(word) for word in behind), 3]])
    p = loaded.model(ids)[0, 12].softmax(-1).topk(5)
    assert ids.shape[1] == T and list(long["probabilities"]) == [WORDS[id] for id in p.indices]


def test_masks_are_asked_for_by_the_name_the_tokenizer_has(folder):
    loaded = load_source(str(folder), torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"a text needs one \[MASK\] to be filled, and text 1 has 2: 'a \[MASK\]"):
        answers_of(loaded, [Example("a [MASK] <mask>")])


def test_training_goes_on_from_a_folder_with_its_own_mask(molino, tiny, folder, tmp_path):
    text = tmp_path / "words.txt"
    text.write_text("the cat sat on a mat. a dog ran and the cats ran. " * 60, "utf-8")
    places = (f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}", "data=text", f"data.path={text}")
    settings = ("task=masked_language_model", "model=pretrained", f"model.source={folder}", "debug=fast")
    done = molino("train", *settings, "data.block_size=8", "optimizer.lr=0", *places, *CPU)
    assert done.status == 0, done.err
    (run,) = directory.list_runs(tmp_path)
    loaded = load_run(run, "best", torch.device("cpu"))
    assert loaded.tokenizer.size == V and loaded.tokenizer.token(loaded.tokenizer.mask_id) == "[MASK]"
    source = load_source(str(folder), torch.device("cpu"))
    asked = [Example("the <mask> ran")]
    assert answers_of(loaded, asked) == answers_of(source, asked)
    # A model of the same sizes takes up the weights alone.
    sizes = [f"model.{name}={value}" for name, value in OURS.items() if name not in ("vocab_size", "block_size")]
    other = ("model=bert", *sizes, "model.n_inner=48", f"data.block_size={T}", "data/tokenizer=pretrained")
    begun = (f"weights={folder}", f"data.tokenizer.path={folder}", "task=masked_language_model", "debug=fast")
    done = molino("train", *other, *begun, "optimizer.lr=0", "name=begun", *places, *CPU)
    assert done.status == 0, done.err
    (run,) = (each for each in directory.list_runs(tmp_path) if each.name.startswith("begun"))
    assert answers_of(load_run(run, "best", torch.device("cpu")), asked) == answers_of(source, asked)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_an_exported_run_fills_masks_as_it_did(molino, tiny, tmp_path, kind):
    tokenizer = ("data/tokenizer=bpe", "data.tokenizer.size=280") if kind == "bpe" else ("data/tokenizer=char",)
    sizes = ("model=bert", "model.n_layer=1", "model.n_embd=16", "model.norm=post", "model.positions=learned")
    places = (f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}", "data=text", f"data.path={tiny.file}")
    trained = ("task=masked_language_model", "debug=fast", "data.block_size=32")
    done = molino("train", *tokenizer, *sizes, *trained, *places, *CPU)
    assert done.status == 0, done.err
    (run,) = directory.list_runs(tmp_path)
    done = molino("export", f"run={run}", f"to={tmp_path / 'model'}")
    assert done.status == 0 and "BertForMaskedLM" in done.out and 'text="... <mask> ..."' in done.out, done.err
    assert not (tmp_path / "model" / "generation_config.json").exists()
    assert "pipeline_tag: fill-mask" in (tmp_path / "model" / "README.md").read_text("utf-8")
    loaded, text = load_run(run, "best", torch.device("cpu")), "en un <mask> de la Mancha"
    (ours,) = answers_of(loaded, [Example(text)])
    same_fillings(ours, transformers.pipeline("fill-mask", model=str(tmp_path / "model"))(text), loaded.tokenizer)
    again = load_source(str(tmp_path / "model"), torch.device("cpu"))
    assert answers_of(again, [Example(text)]) == [ours]


def test_a_tokenizer_without_a_mask_gets_one_and_else_is_told(folder):
    plain = train_bpe([["some text"]], 280)
    assert plain.mask_id is None and plain.extended(("<mask>",)).mask_id == plain.size
    own = Tokenizer(wordpiece())
    assert own.extended(("<mask>",)) is own and own.frame() == ((2,), (3,)) and own.prefix() == ()
    loaded = load_source(str(folder), torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"has no token for what is hidden, such as <mask> or \[MASK\]"):
        loaded.task.predict(loaded.model, plain, [Example("a <mask>")], T)
