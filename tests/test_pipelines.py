import pytest
import torch
from datasets import Dataset
from tiny_seq2seq import TEXTS, make_model, make_tokenizer
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MBartConfig,
    MBartForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaTokenizer,
)
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils import logging

import hf_genai
from hf_genai.data import train_tokenizer
from hf_genai.data.plain_text import read_prompts_as_text
from hf_genai.data.tokenizers import add_gap_tokens
from hf_genai.evaluation.generation import generate_texts
from hf_genai.pipelines import TextToTextPipeline, pipeline

T5_TASKS = {
    "summarization": {"prefix": "summarize: ", "max_length": 6, "num_beams": 2},
    "translation_en_to_de": {"prefix": "translate English to German: ", "max_length": 7},
    "translation_en_to_fr": {"prefix": "translate English to French: ", "max_length": 8},
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(model_max_length=64)


@pytest.fixture(scope="module", params=["rnn", "t5", "marian", "bart"])
def model(request):
    return make_model(request.param)


@pytest.fixture
def warnings(caplog):
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


def expected(model, tokenizer, text, **kwargs):
    """What generate() says to one text alone."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    sequences = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **kwargs)
    return tokenizer.batch_decode(sequences, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("translation", "translation_text"),
        ("translation_en_to_fr", "translation_text"),
        ("summarization", "summary_text"),
        ("text2text-generation", "generated_text"),
    ],
)
def test_each_task_names_its_result_as_transformers_4_did(model, tokenizer, task, key):
    pipe = hf_genai.pipeline(task, model=model, tokenizer=tokenizer, max_new_tokens=5)
    (wanted,) = expected(model, tokenizer, TEXTS[0], max_new_tokens=5)
    assert pipe(TEXTS[0]) == [{key: wanted}]
    assert pipe([TEXTS[0]]) == [{key: wanted}]


def test_batches_lists_columns_generators_and_datasets_give_what_single_texts_give(model, tokenizer):
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, max_new_tokens=5, num_beams=2)
    wanted = [pipe(text)[0] for text in TEXTS]
    assert len({row["translation_text"] for row in wanted}) > 1
    assert pipe(TEXTS) == pipe(TEXTS, batch_size=4) == pipe(tuple(TEXTS), batch_size=2) == wanted
    rows = Dataset.from_dict({"text": TEXTS})
    assert pipe(rows["text"], batch_size=3) == wanted
    streams = [(text for text in TEXTS), iter(TEXTS), KeyDataset(rows, "text"), rows.to_iterable_dataset()["text"]]
    for stream in streams:
        assert [result for (result,) in pipe(stream, batch_size=3)] == wanted


def test_generation_arguments_are_taken_at_the_start_and_at_the_call(model, tokenizer):
    pipe = pipeline("text2text-generation", model=model, tokenizer=tokenizer, max_new_tokens=4, num_beams=4)
    results = pipe(TEXTS[:3], num_return_sequences=3, batch_size=2)
    wanted = [
        expected(model, tokenizer, text, max_new_tokens=4, num_beams=4, num_return_sequences=3) for text in TEXTS
    ]
    assert [[row["generated_text"] for row in rows] for rows in results] == wanted[:3]
    assert [row["generated_text"] for row in pipe(TEXTS[0], num_return_sequences=3)] == wanted[0]
    (result,) = pipe(TEXTS[0], generation_config=GenerationConfig(max_new_tokens=2), return_tensors=True)
    assert result["generated_token_ids"].shape == (3,)
    (result,) = pipe(TEXTS[0], return_dict_in_generate=True, output_scores=True, num_beams=1)
    assert result["generated_text"] == expected(model, tokenizer, TEXTS[0], max_new_tokens=4)[0]
    with pytest.raises(ValueError, match="num_beems"):
        pipe(TEXTS[0], num_beems=2)


@pytest.mark.parametrize("loop", [None, hf_genai.fast_generate])
def test_a_text_ends_with_the_string_that_stops_it(tokenizer, loop):
    pipe = pipeline("translation", model=make_model("t5"), tokenizer=tokenizer, max_new_tokens=12)
    whole = pipe(TEXTS[0])[0]["translation_text"]
    stopped = pipe(TEXTS[0], stop_strings=[whole[2:4]], custom_generate=loop)[0]["translation_text"]
    assert stopped != whole and whole.startswith(stopped) and whole[2:4] in stopped


def test_sampling_follows_the_seed(tokenizer):
    pipe = pipeline("translation", model=make_model("t5"), tokenizer=tokenizer, max_new_tokens=8, do_sample=True)
    torch.manual_seed(0)
    one = pipe(TEXTS, top_k=20)
    assert one != pipe(TEXTS, top_k=20)
    torch.manual_seed(0)
    assert one == pipe(TEXTS, top_k=20)


def test_without_a_length_decoding_does_not_stop_at_20_tokens(tokenizer):
    model = make_model("t5", eos_token_id=None)
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, return_tensors=True)
    assert pipe("red")[0]["translation_token_ids"].shape == (257,)
    model.generation_config.max_length = 9
    assert pipe("red")[0]["translation_token_ids"].shape == (9,)
    bart = pipeline("translation", model=make_model("bart", eos_token_id=None), tokenizer=tokenizer)
    assert bart("red", return_tensors=True)[0]["translation_token_ids"].shape == (64,)  # its positions


def test_long_sources_are_cut_with_a_warning_that_names_the_lengths(warnings):
    tokenizer, model = make_tokenizer(model_max_length=10), make_model("t5")
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, max_new_tokens=3)
    long, count = TEXTS[1], len(tokenizer(TEXTS[1], verbose=False)["input_ids"])
    result = pipe([long, "red"])
    assert [record.message for record in warnings.records if "Cut" in record.message] == [
        f"Cut 1 of 1 texts to 10 tokens; the longest has {count}."
    ]
    ids = torch.tensor([tokenizer(long, truncation=True)["input_ids"]])
    assert ids.shape == (1, 10) and ids[0, -1] == 2
    assert result[0]["translation_text"] == tokenizer.decode(
        model.generate(ids, max_new_tokens=3)[0], skip_special_tokens=True
    )
    warnings.clear()
    uncut, cut = pipe(long, truncation=False), pipe(long, max_source_length=5)
    assert uncut != cut
    always = {"model": model, "tokenizer": tokenizer, "max_new_tokens": 3}
    assert pipeline("translation", **always, truncation=False)(long) == uncut
    assert pipeline("translation", **always, max_source_length=5)(long, prefix="") == cut
    assert [r.message for r in warnings.records] == [f"Cut 1 of 1 texts to 5 tokens; the longest has {count}."] * 2


def test_the_limit_of_the_model_counts_where_the_tokenizer_has_none(warnings):
    tokenizer = make_tokenizer()
    pipe = pipeline("translation", model=make_model("bart"), tokenizer=tokenizer, max_new_tokens=3)
    pipe("red " * 100)
    assert any("to 64 tokens" in record.message for record in warnings.records)


def test_t5_gets_its_prefix_and_parameters_for_the_task(tokenizer, warnings):
    model = make_model("t5", task_specific_params=T5_TASKS, eos_token_id=None)
    summary = pipeline("summarization", model=model, tokenizer=tokenizer)
    wanted = expected(model, tokenizer, "summarize: " + TEXTS[0], max_length=6, num_beams=2)
    assert summary(TEXTS[0]) == [{"summary_text": wanted[0]}]
    (result,) = summary(TEXTS[0], max_new_tokens=3, return_tensors=True)
    assert result["summary_token_ids"].shape == (4,)
    (result,) = summary(TEXTS[0], prefix="", num_beams=1)
    assert result["summary_text"] == expected(model, tokenizer, TEXTS[0], max_length=6)[0]

    wanted = expected(model, tokenizer, "translate English to French: red", max_length=8)
    assert pipeline("translation_en_to_fr", model=model, tokenizer=tokenizer)("red") == [
        {"translation_text": wanted[0]}
    ]
    assert not warnings.records
    pipe = pipeline("translation", model=model, tokenizer=tokenizer)
    assert "translation_en_to_de, translation_en_to_fr" in warnings.records[-1].message
    assert pipe("red", src_lang="en", tgt_lang="fr") == [{"translation_text": wanted[0]}]
    with pytest.raises(ValueError, match="src_lang and tgt_lang, got 'en' and 'xx'"):
        pipe("red", src_lang="en", tgt_lang="xx")


def test_models_of_many_languages_get_the_source_code_and_begin_with_the_target_code(tokenizer):
    class Languages(type(tokenizer)):
        src_lang = "it"

        def _batch(self, texts):
            return [f"{self.src_lang} {text}" for text in texts]

        def __call__(self, text, **kwargs):
            return super().__call__(self._batch(text), **kwargs)

    base = make_tokenizer("word", ["it red is old house"])
    languages = Languages(
        tokenizer_object=base.backend_tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    torch.manual_seed(0)
    config = MBartConfig(
        vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    model = MBartForConditionalGeneration(config).eval()
    is_id = base.convert_tokens_to_ids("is")
    pipe = pipeline("translation_old_to_is", model=model, tokenizer=languages, return_tensors=True, max_new_tokens=3)
    assert pipe("red")[0]["translation_token_ids"][1] == is_id
    assert languages.src_lang == "old"
    house = pipe("red", src_lang="red", tgt_lang="house")[0]["translation_token_ids"]
    assert house[1] == base.convert_tokens_to_ids("house") and languages.src_lang == "red"
    with pytest.raises(ValueError, match="language 'klingon' is not one of the tokenizer's"):
        pipe("red", tgt_lang="klingon")


def test_a_folder_with_two_tokenizers_is_saved_and_loaded_whole(model, tmp_path):
    source, target = make_tokenizer("word", TEXTS), make_tokenizer("char", TEXTS)
    pipe = pipeline("translation", model=model, tokenizer=source, target_tokenizer=target, max_new_tokens=5)
    wanted = pipe(TEXTS)
    (first,) = pipe(TEXTS[0], return_tensors=True)
    assert wanted[0]["translation_text"] == target.decode(first["translation_token_ids"], skip_special_tokens=True)
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "target_tokenizer" / "tokenizer.json").is_file()
    again = pipeline("translation", model=tmp_path, tokenizer=None, dtype="float32", device="cpu", max_new_tokens=5)
    assert again(TEXTS, batch_size=3) == wanted
    assert again.target_tokenizer.get_vocab() == target.get_vocab()
    other = pipeline("translation", model=str(tmp_path), target_tokenizer=source, max_new_tokens=5)
    assert other.target_tokenizer is source
    half = pipeline("translation", model=str(tmp_path), dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16


def test_arguments_for_loading_reach_model_and_tokenizers(monkeypatch, tokenizer):
    calls = []
    monkeypatch.setattr("hf_genai.pipelines.load_tokenizers", lambda name, **kw: calls.append(kw) or (tokenizer,) * 2)
    model = make_model("t5")
    monkeypatch.setattr("hf_genai.pipelines.load_model", lambda auto_class, name, **kw: calls.append(kw) or model)
    hub = {"revision": "v1", "token": "hf_x", "trust_remote_code": True}
    pipeline("translation", "some/repo", **hub, model_kwargs={"attn_implementation": "eager"})
    assert calls[0] == hub
    assert hub.items() <= calls[1].items() and calls[1]["attn_implementation"] == "eager"
    pipeline("translation", "some/repo", tokenizer="other/repo", **hub)
    assert calls[2]["revision"] is None  # v1 is a revision of the model's repository


def test_wrong_inputs_are_named(tokenizer):
    pipe = pipeline("translation", model=make_model("t5"), tokenizer=tokenizer, max_new_tokens=2)
    for nothing in ([], (), KeyDataset([], "text")):
        with pytest.raises(ValueError, match="at least one text, got none"):
            pipe(nothing)
    with pytest.raises(ValueError, match="got dict"):
        pipe({"text": "red"})
    with pytest.raises(ValueError, match="got NoneType"):
        pipe(None)
    with pytest.raises(ValueError, match="inputs must be texts, got int: 3"):
        pipe(["red", 3])
    with pytest.raises(ValueError, match=r"pass a column of the dataset, one of \['text'\]"):
        pipe(Dataset.from_dict({"text": TEXTS}))
    assert pipe("")  # has its </s>


def test_half_of_a_surrogate_pair_is_refused_with_the_number_of_its_text(tokenizer):
    model, half = make_model("t5"), "blue \udc80"  # as a byte that is no UTF-8 comes from a command line
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, max_new_tokens=2)
    problem = r" has '\\udc80' at character 6: half of a surrogate pair"
    for given, number in ((half, 1), (["red", half], 2), ((text for text in ["red", "red", half]), 3)):
        with pytest.raises(ValueError, match=f"text {number}{problem}"):
            list(pipe(given))
    with pytest.raises(ValueError, match=f"text 2{problem}"):
        generate_texts(model, tokenizer, ["red", half])


def test_wrong_tasks_models_and_missing_tokenizers_are_named(tokenizer, tmp_path):
    model = make_model("t5")
    with pytest.raises(ValueError, match="task must be one of translation, .*Unknown task translatoin"):
        pipeline("translatoin", model=model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="model is needed"):
        pipeline("translation")
    with pytest.raises(ValueError, match="tokenizer is needed with a model object"):
        pipeline("translation", model=model)
    with pytest.raises(ValueError, match="tokenizer is needed"):
        TextToTextPipeline(model)
    with pytest.raises(ValueError, match="task must be one of"):
        TextToTextPipeline(model, tokenizer, task="fill-mask")
    with pytest.raises(ValueError, match="revision, dtype: only for a model that is loaded by name"):
        pipeline("translation", model=model, tokenizer=tokenizer, revision="v1", dtype="float16")
    decoder = GPT2LMHeadModel(GPT2Config(vocab_size=380, n_embd=8, n_layer=1, n_head=1, n_positions=16))
    with pytest.raises(ValueError, match="must be an encoder-decoder .* got GPT2LMHeadModel"):
        pipeline("translation", model=decoder, tokenizer=tokenizer)
    classifier = BartForSequenceClassification(BartConfig(**{**make_model("bart").config.to_dict(), "num_labels": 2}))
    with pytest.raises(ValueError, match="got BartForSequenceClassification"):
        pipeline("translation", model=classifier, tokenizer=tokenizer)
    for family in ("t5", "rnn"):
        make_model(family).save_pretrained(tmp_path / family)
        with pytest.raises(ValueError, match="no tokenizer .*pass tokenizer="):
            pipeline("translation", model=tmp_path / family)


def test_other_tasks_are_those_of_transformers(tokenizer):
    decoder = GPT2LMHeadModel(GPT2Config(vocab_size=380, n_embd=8, n_layer=1, n_head=1, n_positions=32))
    pipe = pipeline("text-generation", model=decoder, tokenizer=tokenizer, device="cpu")
    assert type(pipe).__name__ == "TextGenerationPipeline"
    assert pipe("red", max_new_tokens=2)[0]["generated_text"].startswith("red")


def test_what_a_classifier_of_a_foreign_unigram_model_is_given_is_text(tmp_path):
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -5.0) for c in "▁</s>ab")]
    tokenizer = XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])
    read_prompts_as_text(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **sizes)
    XLMRobertaForSequenceClassification(config).save_pretrained(tmp_path)
    pipe = pipeline("text-classification", tmp_path)
    assert type(pipe.tokenizer).__name__ == "XLMRobertaTokenizer"
    assert pipe.preprocess("a </s> b")["input_ids"][0].tolist().count(tokenizer.eos_token_id) == 1


def test_a_blank_text_has_a_blank_output_alone_and_in_batches(model, tokenizer):
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, max_new_tokens=5)
    (wanted,) = pipe(TEXTS[0])
    nothing = {"translation_text": ""}
    assert pipe("") == pipe(" \n") == [nothing]
    assert pipe([" ", TEXTS[0], ""], batch_size=3) == pipe([" ", TEXTS[0], ""]) == [nothing, wanted, nothing]
    assert pipe("", num_beams=2, num_return_sequences=2) == [nothing, nothing]
    assert pipe("", return_tensors=True)[0]["translation_token_ids"].numel() == 0


@pytest.mark.parametrize("task", ["translation", "text2text-generation"])
def test_prompts_name_sentinels_to_a_pretrained_t5_and_nothing_else(task):
    tokenizer = train_tokenizer(["red <s>cars</s>"] * 3, vocab_size=300)
    add_gap_tokens(tokenizer, "byte_bpe", others=["<extra_id_0>"])
    pipe = pipeline(task, model=make_model("t5"), tokenizer=tokenizer)
    ids = pipe.preprocess("red <extra_id_0> <s>cars</s>")["input_ids"][0].tolist()
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    assert [token for token in ids if token in (1, 2, sentinel)] == [sentinel, 2][task == "translation" :]
