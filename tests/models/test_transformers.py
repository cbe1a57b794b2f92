"""What the Transformers do that no common test sees, and what they refuse."""

import math

import pytest
import tiny_transformer as tiny
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_rnn import loud, ragged

import hf_genai

MAKERS = {
    "bert": (hf_genai.GenaiBertConfig, hf_genai.GenaiBertForMaskedLM, tiny.BERTS),
    "gpt": (hf_genai.GenaiGPTConfig, hf_genai.GenaiGPTForCausalLM, tiny.GPTS),
    "t5": (hf_genai.GenaiT5Config, hf_genai.GenaiT5ForConditionalGeneration, tiny.T5S),
}
LAYOUTS = [pytest.param(name, variant, id=f"{name}-{variant}") for name in MAKERS for variant in MAKERS[name][2]]
LEARNED = [("bert", "classic"), ("gpt", "classic"), ("t5", "learned, untied, of two depths")]
each_layout = pytest.mark.parametrize(("family", "variant"), LAYOUTS)
each_learned = pytest.mark.parametrize(("family", "variant"), LEARNED)


def make(family: str, variant: str = "modern", model_class=None, std: float = 0.7, **more):
    config_class, default, variants = MAKERS[family]
    torch.manual_seed(0)
    return loud((model_class or default)(config_class(**{**tiny.SIZES, **variants[variant], **more})), std)


def text(side: str | None = None, batch: int = 3, length: int = 6):
    ids, mask = ragged(batch, length, 19, side or "right", **({} if side else {"shortest": length}))
    return {"input_ids": ids, "attention_mask": mask}


def numbers(model, **batch) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch)[0]


@each_layout
def test_positions_that_are_not_given_are_those_that_would_be(family, variant):
    if family == "t5":
        model, batch = make(family, variant).model.encoder, text()
    else:
        model, batch = make(family, variant), text()
    first = getattr(model.config, "position_offset", 0)
    given = {**batch, "position_ids": torch.arange(6).expand(3, -1) + first}
    torch.testing.assert_close(numbers(model, **batch), numbers(model, **given))
    backwards = numbers(model, **{**batch, "position_ids": given["position_ids"].flip(1)})
    if model.config.position_embedding_type in ("learned", "sinusoidal", "rotary"):
        assert not torch.allclose(numbers(model, **batch), backwards, atol=1e-2)


@each_layout
def test_the_order_of_words_matters(family, variant):
    model, batch = make(family, variant), text()
    if family == "t5":
        batch["decoder_input_ids"] = batch["input_ids"][:, :4].clone()
    swapped = {**batch, "input_ids": batch["input_ids"][:, [1, 0, 2, 3, 4, 5]]}
    first, second = numbers(model, **batch), numbers(model, **swapped)
    assert (first[:, -1] - second[:, -1]).abs().max() > 1e-2, "what the last place says must depend on who came first"


def test_labels_alone_make_the_decoder_input():
    model, batch = make("t5"), text("right")
    labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100], [9, 9, 2, -100]])
    shifted = torch.tensor([[1, 5, 6, 7], [1, 8, 2, 0], [1, 9, 9, 2]])
    alone, both = model(**batch, labels=labels), model(**batch, labels=labels, decoder_input_ids=shifted)
    torch.testing.assert_close(alone.loss, both.loss)
    torch.testing.assert_close(alone.logits, both.logits)
    plain = torch.nn.functional.cross_entropy(both.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(alone.loss, plain)


def test_a_causal_model_predicts_the_next_token_and_a_masked_one_the_token_itself():
    for family, places in (("gpt", slice(None, -1)), ("bert", slice(None))):
        model, batch = make(family), text()
        outputs = model(**batch, labels=batch["input_ids"])
        labels = batch["input_ids"][:, 1:] if family == "gpt" else batch["input_ids"]
        plain = torch.nn.functional.cross_entropy(outputs.logits[:, places].flatten(0, 1), labels.flatten())
        torch.testing.assert_close(outputs.loss, plain)
        torch.testing.assert_close(model.train()(**batch, labels=batch["input_ids"]).loss, plain)


@each_layout
def test_every_layer_hides_the_padding(family, variant):
    """A stack whose mask got lost on the way to one layer would still hide padding in the others."""
    model, batch = make(family, variant), text("right")
    stack = {"bert": "model", "gpt": "model", "t5": "model.encoder"}[family]
    stack = model.get_submodule(stack)
    for keep in range(len(stack.layers)):
        with torch.no_grad():
            for index, layer in enumerate(stack.layers):
                layer.self_attn.o_proj.weight.normal_(std=0.7 if index == keep else 0.0)
        outputs = [
            stack(**{**batch, "input_ids": batch["input_ids"] + other * (1 - batch["attention_mask"])})[0]
            for other in (3, 9)
        ]
        real = batch["attention_mask"].bool()
        assert torch.equal(outputs[0][real], outputs[1][real])


def test_keyword_arguments_reach_every_layer():
    """FlashAttention's lengths of packed texts, for one, come this way."""
    seen, lengths = [], torch.tensor([0, 6])

    def spy(module, args, kwargs):
        seen.append(kwargs.get("cu_seq_lens_k"))

    for family, count in (("bert", 2), ("gpt", 2), ("t5", 6)):
        model, batch = make(family), text()
        attentions = [m for n, m in model.named_modules() if n.endswith(("self_attn", "cross_attn"))]
        for attention in attentions:
            attention.register_forward_pre_hook(spy, with_kwargs=True)
        seen.clear()
        numbers(model, **batch, cu_seq_lens_k=lengths)
        assert len(seen) == count == len(attentions) and all(found is lengths for found in seen)


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("tied", [True, False])
def test_new_embeddings_are_used_wherever_the_old_ones_were(family, tied):
    model, batch = make(family, tie_word_embeddings=tied), text()
    table = torch.nn.Embedding(19, 16)
    model.set_input_embeddings(table)
    model.tie_weights()
    assert model.get_input_embeddings() is table
    assert (model.get_output_embeddings().weight is table.weight) == tied
    before = numbers(model, **batch)
    with torch.no_grad():
        table.weight.mul_(-1.5)
    assert not torch.allclose(numbers(model, **batch), before)
    if family == "t5":  # the decoder reads its words from the same table
        outputs = model.model.encoder(**batch)
        words = {"encoder_outputs": outputs, "attention_mask": batch["attention_mask"]}
        first = numbers(model, **words, decoder_input_ids=torch.full((3, 2), 5))
        with torch.no_grad():
            table.weight[5] += 3 * torch.randn(16)
        assert not torch.allclose(first, numbers(model, **words, decoder_input_ids=torch.full((3, 2), 5)))
    head = torch.nn.Linear(16, 19, bias=False)
    model.set_output_embeddings(head)
    assert model.get_output_embeddings() is head is model.lm_head


@pytest.mark.parametrize("family", ["gpt", "t5"])
def test_the_configuration_says_whether_a_cache_is_made_unless_the_call_does(family):
    for default in (True, False):
        model, batch = make(family, use_cache=default), text()
        assert (model(**batch).past_key_values is not None) == default
        for asked in (True, False):
            assert (model(**batch, use_cache=asked).past_key_values is not None) == asked
        assert model.train()(**batch, labels=batch["input_ids"]).past_key_values is None


def test_a_text_is_classified_the_same_from_its_vectors():
    model = make("t5", "classic", hf_genai.GenaiT5ForSequenceClassification)
    batch = text("right")
    batch["input_ids"][torch.arange(3), batch["attention_mask"].sum(1) - 1] = 2
    table, ids = model.get_input_embeddings(), batch["input_ids"]
    shifted = ids.roll(1, 1)
    shifted[:, 0] = model.config.decoder_start_token_id
    vectors = {"inputs_embeds": table(ids), "decoder_inputs_embeds": table(shifted)}
    mask = {"attention_mask": batch["attention_mask"]}
    torch.testing.assert_close(numbers(model, **batch), numbers(model, **vectors, **mask))


@pytest.mark.parametrize("family", MAKERS)
def test_impossible_inputs_are_refused_by_name(family):
    model, batch = make(family), text("right")

    def refused(words, **more):
        with pytest.raises(ValueError, match=words):
            model(**{**batch, **more})

    ids, mask = batch["input_ids"], batch["attention_mask"]
    target = {"decoder_input_ids": ids} if family == "t5" else {}
    refused(r"input_ids must be from 0 to 18", input_ids=ids + 19)
    refused(r"input_ids must be from 0 to 18", input_ids=ids - 19)
    refused(r"input_ids must be an integer", input_ids=ids.float())
    refused(r"input_ids must be \(batch, length\)", input_ids=ids[0], attention_mask=None)
    refused(r"input_ids must be \(batch, length\)", input_ids=ids[:0], attention_mask=None)
    refused(r"input_ids must be \(batch, length\)", input_ids=ids[:, :0], attention_mask=None)
    refused(r"attention_mask is all padding in row 1", attention_mask=mask * torch.tensor([[1], [0], [1]]))
    refused(r"attention_mask must be \(batch, length\)", attention_mask=mask[:2])
    refused(r"attention_mask must be \(batch, length\)", attention_mask=mask[:, :4])
    refused(r"not both", inputs_embeds=torch.zeros(3, 6, 16))
    refused(r"inputs_embeds must be", input_ids=None, inputs_embeds=torch.zeros(3, 6, 8), **target)
    empty = torch.zeros(3, 0, 16)
    refused(r"inputs_embeds must be .* none of them 0", input_ids=None, inputs_embeds=empty, **target)
    refused(r"labels must be an integer", labels=ids.float())
    refused(r"labels must be from 0 to 18", labels=ids + 19)
    refused(r"labels must be \(batch, length\)", labels=ids[:, :3], **target)
    refused(r"skip_logits=True needs labels", skip_logits=True)
    with pytest.raises(ValueError, match="neither|no input_ids"):
        model()


def test_an_encoder_decoder_refuses_what_does_not_fit_its_two_sides():
    model, batch = make("t5"), text("right")
    with pytest.raises(ValueError, match="decoder_input_ids must be from 0 to 18"):
        model(**batch, decoder_input_ids=batch["input_ids"] + 19)
    with pytest.raises(ValueError, match="decoder_attention_mask is all padding in row 0"):
        model(**batch, decoder_input_ids=batch["input_ids"], decoder_attention_mask=torch.zeros(3, 6))
    with pytest.raises(ValueError, match="a row for each of the 3 sources"):
        model(**batch, decoder_input_ids=batch["input_ids"][:2])
    with pytest.raises(ValueError, match="either decoder_input_ids or decoder_inputs_embeds, not both"):
        model(**batch, decoder_input_ids=batch["input_ids"], decoder_inputs_embeds=torch.zeros(3, 6, 16))
    with pytest.raises(ValueError, match="takes no position_ids"):
        model(**batch, position_ids=torch.arange(6)[None])


@each_learned
def test_texts_longer_than_the_table_of_positions_are_refused(family, variant):
    model = make(family, variant)
    long = torch.full((1, 33), 5)
    for batch in [{"input_ids": long}, {"inputs_embeds": torch.zeros(1, 33, 16), "decoder_input_ids": long[:, :3]}]:
        if family != "t5":
            batch.pop("decoder_input_ids", None)
        with pytest.raises(ValueError, match="positions must be from 0 to 31 .*cut the text"):
            model(**batch)
    assert numbers(model, input_ids=long[:, 1:]).isfinite().all()
    if family == "t5":
        with pytest.raises(ValueError, match="positions must be from 0 to 31"):
            model(input_ids=long[:, :3], decoder_input_ids=long)
    else:
        for wrong in (32, -1):
            with pytest.raises(ValueError, match="positions must be from 0 to 31"):
                model(input_ids=long[:, :2], position_ids=torch.tensor([[0, wrong]]))
        with pytest.raises(ValueError, match=r"position_ids must be \(batch, length\)"):
            model(input_ids=long[:, :2], position_ids=torch.arange(3)[None])


@each_learned
def test_going_on_past_the_last_position_is_refused_too(family, variant):
    if family == "bert":
        return
    model, ids = make(family, variant), torch.full((1, 31), 5)
    name = "decoder_input_ids" if family == "t5" else "input_ids"
    source = {"input_ids": ids[:, :4]} if family == "t5" else {}
    with torch.no_grad():
        cache = model(**source, **{name: ids}, use_cache=True).past_key_values
        cache = model(**source, **{name: ids[:, :1]}, past_key_values=cache).past_key_values
        with pytest.raises(ValueError, match="positions must be from 0 to 31"):
            model(**source, **{name: ids[:, :1]}, past_key_values=cache)


def test_segments_that_the_table_does_not_have_are_refused():
    batch = text()
    with pytest.raises(ValueError, match="token_type_ids must be from 0 to 1"):
        make("bert")(**batch, token_type_ids=torch.full((3, 6), 2))
    with pytest.raises(ValueError, match="token_type_ids must be all 0"):
        make("bert", "roberta, no token types")(**batch, token_type_ids=torch.ones(3, 6, dtype=torch.long))
    # which tokenizers make for models of either kind
    make("bert", "roberta, no token types")(**batch, token_type_ids=torch.zeros(3, 6, dtype=torch.long))


@pytest.mark.parametrize(
    ("config_class", "model_class", "places"),
    [
        (hf_genai.GenaiBertConfig, hf_genai.GenaiBertForTokenClassification, (3, 6)),
        (hf_genai.GenaiBertConfig, hf_genai.GenaiBertForSequenceClassification, (3,)),
        (hf_genai.GenaiGPTConfig, hf_genai.GenaiGPTForTokenClassification, (3, 6)),
        (hf_genai.GenaiT5Config, hf_genai.GenaiT5ForTokenClassification, (3, 6)),
    ],
)
def test_classes_that_do_not_exist_are_refused(config_class, model_class, places):
    model = model_class(config_class(**tiny.SIZES, num_labels=4))
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=rf"labels must be from 0 to 3 .*not {wrong}"):
            model(**text(), labels=torch.full(places, wrong))
    if len(places) == 2:
        with pytest.raises(ValueError, match="labels must be an integer"):
            model(**text(), labels=torch.zeros(places))


def test_a_text_without_an_end_cannot_be_classified():
    model = make("t5", "classic", hf_genai.GenaiT5ForSequenceClassification)
    with pytest.raises(ValueError, match="end-of-text token"):
        model(**text())


def test_a_source_needs_a_model_with_cross_attention():
    with pytest.raises(ValueError, match="add_cross_attention"):
        make("gpt")(**text(), encoder_hidden_states=torch.zeros(3, 2, 16))


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"hidden_size": 18}, "multiple of num_attention_heads"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"head_dim": 5}, "must be even"),
        ({"hidden_size": 15, "head_dim": 4, "position_embedding_type": "sinusoidal"}, "must be even"),
        ({"num_key_value_heads": 0}, "at least 1"),
        ({"intermediate_size": 0}, "at least 1"),
        ({"vocab_size": 0}, "at least 1"),
        ({"hidden_dropout_prob": 1.5}, "from 0 to 1"),
        ({"classifier_dropout": -0.1}, "between 0 and 1"),
        ({"classifier_dropout": 1.1}, "between 0 and 1"),
        ({"hidden_act": "swish"}, "hidden_act"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type"),
        ({"relative_attention_num_buckets": 2}, "at least 4"),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", MAKERS)
def test_configurations_that_make_no_sense_are_refused(family, choices, words):
    with pytest.raises((StrictDataclassError, ValueError), match=words):
        MAKERS[family][0](**{**tiny.SIZES, **choices})


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"position_offset": 1}, "must be 0 with position_embedding_type='rotary'"),
        ({"position_offset": 1, "position_embedding_type": "learned", "pad_token_id": None}, "which is None"),
        ({"position_offset": -1, "position_embedding_type": "learned"}, "position_offset must be at least 0, not -1"),
        ({"type_vocab_size": -1}, "type_vocab_size must be at least 0, not -1"),
    ],
    ids=str,
)
def test_offsets_and_segments_that_make_no_sense_are_refused(choices, words):
    with pytest.raises((StrictDataclassError, ValueError), match=words):
        hf_genai.GenaiBertConfig(**{**tiny.SIZES, **choices})


def test_an_unknown_kind_of_rotary_positions_is_refused():
    with pytest.raises((StrictDataclassError, ValueError, KeyError), match="rope_type|spiral"):
        hf_genai.GenaiGPTModel(
            hf_genai.GenaiGPTConfig(**tiny.SIZES, rope_parameters={"rope_type": "spiral", "rope_theta": 1e4})
        )


@pytest.mark.parametrize(("family", "layout"), [("gpt", "modern"), ("gpt", "classic"), ("bert", "classic")])
def test_a_wide_new_model_guesses_as_a_narrow_one_does(family, layout):
    """The scores of a vocabulary spread with the width, unless the weights start smaller."""
    config_class, default, _ = MAKERS[family]
    sizes = {"hidden_size": 1024, "num_attention_heads": 8, "intermediate_size": 64, "num_hidden_layers": 1}
    make_config = config_class if layout == "modern" else config_class.classic
    torch.manual_seed(0)
    model = default(make_config(**sizes, vocab_size=8192, pad_token_id=0)).eval()
    ids = torch.randint(3, 8192, (2, 32))
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids).loss.item() == pytest.approx(math.log(8192), rel=0.02)


@pytest.mark.parametrize("variant", ["classic", "roberta, no token types"])
def test_a_causal_bert_writes_from_the_positions_that_its_forward_pass_counts(variant):
    """RoBERTa's begin at an offset, which generate() knows nothing of."""
    model, batch = make("bert", variant, hf_genai.GenaiBertForCausalLM), text("left")
    made = model.generate(
        **batch, max_new_tokens=5, eos_token_id=None, output_logits=True, return_dict_in_generate=True
    )
    mask = torch.cat([batch["attention_mask"], torch.ones(3, 5, dtype=torch.long)], 1)
    whole = {"input_ids": made.sequences, "attention_mask": mask}
    at_once = numbers(model, **whole)[:, -6:-1]
    torch.testing.assert_close(torch.stack(made.logits, 1), at_once, atol=1e-4, rtol=1e-4)
    past = model(**batch, use_cache=True).past_key_values
    later = numbers(model, input_ids=made.sequences[:, 6:], attention_mask=mask, past_key_values=past)
    torch.testing.assert_close(later[:, :-1], at_once[:, 1:], atol=1e-4, rtol=1e-4)
    moved = mask.cumsum(1).clamp(min=1)
    assert not torch.allclose(
        numbers(model, **whole, position_ids=moved - 1), numbers(model, **whole, position_ids=moved)
    )


def test_a_bert_that_reads_in_both_directions_refuses_what_only_a_decoder_has():
    config = hf_genai.GenaiBertConfig(**tiny.SIZES, **tiny.LAYERS, is_decoder=True)
    for name in ("MaskedLM", "PreTraining", "NextSentencePrediction", "SequenceClassification", "MultipleChoice"):
        with pytest.raises(ValueError, match=f"is_decoder must be False: a GenaiBertFor{name} reads"):
            getattr(hf_genai, f"GenaiBertFor{name}")(config)
    with pytest.raises(StrictDataclassError, match="add_cross_attention=True needs is_decoder=True"):
        hf_genai.GenaiBertConfig(add_cross_attention=True)
    model, ids = make("bert"), text()["input_ids"]
    with pytest.raises(ValueError, match="encoder_hidden_states needs"):
        model.model(ids, encoder_hidden_states=torch.zeros(3, 4, tiny.SIZES["hidden_size"]))


def test_a_causal_bert_leaves_the_configuration_that_it_was_given_as_it_was():
    config = hf_genai.GenaiBertConfig(**tiny.SIZES, **tiny.LAYERS)
    model = hf_genai.GenaiBertForCausalLM(config)
    assert model.config.is_decoder and model.model.is_causal and not config.is_decoder


def test_the_loss_of_pretraining_is_the_sum_of_what_the_two_labels_give():
    model, batch = make("bert", model_class=hf_genai.GenaiBertForPreTraining), text("right")
    batch["token_type_ids"] = torch.tensor([[0, 0, 1, 1, 1, 1]] * 3)
    labels, follows = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100), torch.tensor([0, 1, 1])
    with torch.no_grad():
        both = model(**batch, labels=labels, next_sentence_label=follows)
        words, sentences = model(**batch, labels=labels), model(**batch, next_sentence_label=follows)
    expected = torch.nn.functional.cross_entropy(both.prediction_logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(words.loss, expected)
    torch.testing.assert_close(
        sentences.loss, torch.nn.functional.cross_entropy(both.seq_relationship_logits, follows)
    )
    torch.testing.assert_close(both.loss, words.loss + sentences.loss)
    with pytest.raises(ValueError, match="labels must be from 0 to 1"):
        model(**batch, next_sentence_label=torch.tensor([0, 2, 1]))
    model.train()
    trained = model(**batch, labels=labels, next_sentence_label=follows)
    assert trained.prediction_logits is None
    torch.testing.assert_close(trained.loss, both.loss)


@pytest.mark.parametrize("head", ["GenaiBertForPreTraining", "GenaiBertForNextSentencePrediction"])
def test_a_classifier_made_from_a_pretrained_bert_starts_anew(head, tmp_path):
    """Whether one sentence follows another has two classes, too, but is another question."""
    make("bert", model_class=getattr(hf_genai, head), num_labels=2).save_pretrained(tmp_path)
    _, report = hf_genai.GenaiBertForSequenceClassification.from_pretrained(
        tmp_path, num_labels=2, output_loading_info=True
    )
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}


def test_a_single_class_is_a_class_where_the_configuration_says_so():
    for kind, labels in ((None, torch.ones(3)), ("single_label_classification", torch.zeros(3, dtype=torch.long))):
        config = hf_genai.GenaiBertConfig(**{**tiny.SIZES, **tiny.BERTS["classic"]}, num_labels=1)
        config.problem_type = kind
        model = hf_genai.GenaiBertForSequenceClassification(config).eval()
        outputs = model(**text("right"), labels=labels)
        wanted = torch.tensor(0.0) if kind else torch.nn.functional.mse_loss(outputs.logits[:, 0], labels)
        torch.testing.assert_close(outputs.loss, wanted)
