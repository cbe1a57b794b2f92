"""LoRA by PEFT on each family: the fast paths must not go round the adapters."""

import inspect

import peft
import pytest
import torch
import transformers
from tiny_cases import cases
from tiny_families import batch_of, make

from hf_genai import fast_generate, from_transformers


def test_lora_starts_equal_trains_saves_loads_and_merges(family, layout, tmp_path):
    batch = batch_of(family)
    model = make(family, layout)
    with torch.no_grad():
        plain = model(**batch).logits
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    model = peft.get_peft_model(model, lora)
    names = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert names >= {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, plain, atol=1e-5, rtol=1e-5)

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-2)
    model.train()
    losses = []
    for _ in range(8):
        loss = model(**batch).loss
        loss.backward()
        assert losses or all(p.grad is not None for p in trained)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    moved = {
        n.split(".lora_B")[0].rsplit(".", 1)[-1] for n, p in model.named_parameters() if "lora_B" in n and p.any()
    }
    assert moved == names  # each adapter learned: none is gone round

    model.eval()
    with torch.no_grad():
        adapted = model(**batch).logits
    assert (adapted - plain).abs().max() > 0.1
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(make(family, layout), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, adapted)
        merged = again.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, adapted, atol=1e-4, rtol=1e-4)
    if family != "BERT":
        ids = {"input_ids": batch["input_ids"][:1], "attention_mask": batch["attention_mask"][:1]}
        options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 2}
        assert merged.generate(**ids, **options).tolist() == model.generate(**ids, **options).tolist()


@pytest.mark.parametrize(
    "name",
    [
        *("GenaiRNNForConditionalGeneration-gru, additive after", "GenaiRNNForSequenceClassification-gru, two layers"),
        *("GenaiBertForTokenClassification-classic", "GenaiGPTForCausalLM-modern"),
        "GenaiT5ForConditionalGeneration-classic",
    ],
)
@pytest.mark.parametrize("options", [{"target_modules": ["embed_tokens"]}, {"trainable_token_indices": [10, 15]}])
def test_adapters_of_embeddings_start_equal_and_train(name, options):
    case = dict(cases())[name]
    model, batch = case.model(dropout=0.0), case.batch("right", labels=True)
    with torch.no_grad():
        plain = model(**batch).loss
    tokens = "trainable_token_indices" in options
    targets = {"target_modules": r".*\.(q_proj|hidden_proj)"} if tokens else {}
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, **{**targets, **options}))
    torch.testing.assert_close(model(**batch).loss, plain)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    for _ in range(5):
        loss = model.train()(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert model.eval()(**batch).loss < plain


TIED = [
    *("GenaiRNNForConditionalGeneration-gru, additive after", "GenaiBertForMaskedLM-classic"),
    *("GenaiGPTForCausalLM-modern", "GenaiT5ForConditionalGeneration-classic"),
]


@pytest.mark.parametrize("name", TIED)
def test_embeddings_that_are_trained_whole_stay_those_of_the_head(name, tmp_path):
    case = dict(cases())[name]
    model, batch = case.model(dropout=0.0), case.batch("right", labels=True)
    with torch.no_grad():
        plain = model(**batch).logits
    targets = r".*\.(q_proj|hidden_proj)"
    whole = peft.LoraConfig(target_modules=targets, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    model = peft.get_peft_model(model, whole)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(3):
        loss = model.train()(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        outputs = model.eval()(**batch)
        torch.testing.assert_close(model.train()(**batch).loss, outputs.loss)
        model.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(case.model(dropout=0.0), tmp_path).eval()
        torch.testing.assert_close(again(**batch).logits, outputs.logits)
        with again.disable_adapter():
            torch.testing.assert_close(again(**batch).logits, plain)
        torch.testing.assert_close(again.merge_and_unload()(**batch).logits, outputs.logits)


GENERATORS = [
    *("GenaiRNNForConditionalGeneration-gru, additive after", "GenaiRNNForCausalLM-lstm, untied, one way"),
    *("GenaiBertForCausalLM-modern", "GenaiGPTForCausalLM-modern", "GenaiT5ForConditionalGeneration-classic"),
]


@pytest.mark.parametrize("learned", [peft.PromptTuningConfig, peft.PrefixTuningConfig])
@pytest.mark.parametrize("name", GENERATORS)
def test_a_learned_prompt_or_prefix_is_read_by_both_decode_loops(name, learned):
    case = dict(cases())[name]
    task = "SEQ_2_SEQ_LM" if case.kind == "seq2seq" else "CAUSAL_LM"
    torch.manual_seed(0)
    model = peft.get_peft_model(case.loud_model(std=1.0), learned(task_type=task, num_virtual_tokens=3)).eval()
    batch = case.batch("left", labels=True)
    prompt = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if learned is peft.PrefixTuningConfig and "RNN" in name:
        with pytest.raises(ValueError, match="can learn a prompt .* but no prefix"):
            model(**batch)
        return
    model(**batch).loss.backward()
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)
    options = {"max_new_tokens": 5, "num_beams": 2, "no_repeat_ngram_size": 1}
    plain = model.generate(**prompt, **options)
    assert torch.equal(model.generate(**prompt, **options, custom_generate=fast_generate), plain)
    assert not torch.equal(model.get_base_model().generate(**prompt, **options), plain)


@pytest.mark.parametrize("masked", [True, False])
def test_a_prefix_of_a_bert_classifier_does_what_it_does_to_the_original(masked, monkeypatch):
    forward = transformers.BertModel.forward
    shown = inspect.signature(forward)
    if "past_key_values" not in shown.parameters:  # PEFT 0.21 finds the new name alone, and refuses; the old one works
        *own, last = shown.parameters.values()
        old = inspect.Parameter("past_key_values", inspect.Parameter.KEYWORD_ONLY, default=None)
        shown = shown.replace(parameters=[*own, old, last])
        monkeypatch.setattr(forward, "__signature__", shown, raising=False)
    config = transformers.BertConfig(
        **{"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 24, "num_labels": 3, "pad_token_id": 0, "initializer_range": 0.3},
    )
    torch.manual_seed(0)
    original = transformers.BertForSequenceClassification(config).eval()
    found = []
    for model in (original, from_transformers(original)):
        torch.manual_seed(1)
        prefix = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
        model = peft.get_peft_model(model.eval(), prefix).eval()
        batch = batch_of("BERT")
        texts = {name: batch[name] for name in ("input_ids", "attention_mask") if masked or name == "input_ids"}
        outputs = model(**texts, labels=torch.tensor([0, 2]))
        outputs.loss.backward()
        gradient = model.prompt_encoder["default"].embedding.weight.grad
        assert gradient.any()
        found.append((outputs.logits, gradient))
    torch.testing.assert_close(found[1], found[0])


def test_adapters_of_classifiers_leave_the_score_functions_of_attention_alone(family):
    """PEFT trains and saves whatever is named "classifier" or "score" whole."""
    name = {"BERT": "Bert"}.get(family, family)
    model = make(family, head=f"Genai{name}ForSequenceClassification")
    adapted = peft.get_peft_model(
        model, peft.IA3Config(task_type="SEQ_CLS", target_modules=["k_proj", "v_proj"], feedforward_modules=[])
    )
    kept = {name.split(".modules_to_save")[0] for name, _ in adapted.named_modules() if "modules_to_save" in name}
    assert not any("attn" in name or "attention" in name for name in kept), kept
    assert type(adapted.merge_and_unload()) is type(model)
