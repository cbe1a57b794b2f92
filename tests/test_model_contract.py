"""What every registered model class promises, whatever its family: one battery over the cases of tiny_cases.py."""

import itertools
import math

import pytest
import torch
import transformers
from tiny_cases import BATCH, BERT, CHOICES, GPT, LABELS, RNN, SOURCE, T5, TARGET, Case, cases
from torch import nn
from transformers.utils.generic import find_labels

from hf_genai.models.base import attention_of
from hf_genai.registry import load

CASES = [pytest.param(case, id=name) for name, case in cases()]


def each_that(holds):
    return pytest.mark.parametrize("case", [param for param in CASES if holds(param.values[0])])


each = each_that(lambda case: True)
each_generator = each_that(lambda case: case.generates)
each_transformer = each_that(lambda case: case.family != RNN)


def gradients(case: Case, model: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    model.zero_grad()
    case.loss(model, batch).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_close(found, expected, tolerance: float = 1e-5):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@each
def test_outputs_have_the_documented_shapes(case):
    config = case.config()
    outputs = case.model()(**case.batch(), output_hidden_states=True)
    length, vocabulary = TARGET if case.kind == "seq2seq" else SOURCE, config.vocab_size
    guesses = {"sequence": (BATCH, LABELS), "token": (BATCH, SOURCE, LABELS), "choice": (BATCH, CHOICES)}
    guesses["relation"] = (BATCH, 2)
    if not case.has_head:
        assert outputs.last_hidden_state.shape == (BATCH, length, config.hidden_size)
    elif case.kind == "span":
        assert outputs.start_logits.shape == outputs.end_logits.shape == (BATCH, SOURCE)
    elif case.kind == "pretraining":
        assert outputs.prediction_logits.shape == (BATCH, SOURCE, vocabulary)
        assert outputs.seq_relationship_logits.shape == (BATCH, 2)
    else:
        assert outputs.logits.shape == guesses.get(case.kind, (BATCH, length, vocabulary))
    rows = BATCH * CHOICES if case.kind == "choice" else BATCH
    if case.runs_decoder:
        size = config.encoder_hidden_size if case.family == RNN else config.hidden_size
        assert outputs.encoder_last_hidden_state.shape == (BATCH, SOURCE, size)
        assert [h.shape[:2] for h in outputs.encoder_hidden_states] == [(BATCH, SOURCE)] * (config.encoder_layers + 1)
        assert [h.shape[:2] for h in outputs.decoder_hidden_states] == [(BATCH, length)] * (config.decoder_layers + 1)
    else:
        encodes = case.family == T5 or (case.family == RNN and case.kind != "causal")
        depth = config.encoder_layers if encodes else config.num_hidden_layers
        assert [h.shape[:2] for h in outputs.hidden_states] == [(rows, SOURCE)] * (depth + 1)


@each
def test_the_loss_is_finite_and_falls_on_one_batch(case):
    model, batch = case.model().train(), case.batch("right", "right", labels=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = case.loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.8 * losses[0]


@each_that(lambda case: case.has_head)
def test_trainer_asks_for_no_label_that_a_batch_does_not_have(case):
    """With one more, its evaluation has no loss."""
    assert set(find_labels(type(case.model()))) <= case.batch(labels=True).keys()


@pytest.mark.parametrize("family", [RNN, BERT, GPT, T5])
def test_a_plain_trainer_evaluates_the_loss(family, tmp_path):
    kinds = {RNN: "seq2seq", BERT: "masked", GPT: "causal", T5: "seq2seq"}
    case = next(case for _, case in cases() if (case.family, case.kind) == (family, kinds[family]) and case.has_head)
    batch = case.batch(labels=True)
    rows = [{name: values[place] for name, values in batch.items()} for place in range(BATCH)]
    arguments = transformers.TrainingArguments(tmp_path, report_to="none", use_cpu=True)
    model = case.model()
    found = transformers.Trainer(model, arguments, eval_dataset=rows).evaluate()["eval_loss"]
    assert found == pytest.approx(model(**batch).loss.item(), rel=1e-5)


@each_that(lambda case: case.kind in ("sequence", "choice", "relation", "pretraining", "span"))
def test_trainer_adds_up_gradients_of_several_batches_to_those_of_one(case, tmp_path):
    batch = case.batch(labels=True)
    rows = [{name: values[place] for name, values in batch.items()} for place in (0, 1)]
    found = []
    for size in (2, 1):
        arguments = transformers.TrainingArguments(
            tmp_path,
            **{"per_device_train_batch_size": size, "gradient_accumulation_steps": 2 // size, "max_steps": 1},
            **{"logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True},
        )
        trainer = transformers.Trainer(case.model(), arguments, train_dataset=rows)
        trainer.train()
        found.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm")])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@each
def test_every_parameter_gets_a_gradient(case):
    model = case.loud_model().train()
    found = gradients(case, model, case.batch("right", "right", labels=True))
    assert [name for name, gradient in found.items() if not gradient.isfinite().all()] == []
    # the softmax over choices does not see what all of them get: that bias has a gradient of 0 but for rounding
    needless = {"classifier.bias"} if case.name.endswith("ForMultipleChoice") else set()
    assert [name for name, gradient in found.items() if gradient.abs().max() == 0 and name not in needless] == []


@each_that(lambda case: case.has_head and case.kind != "pretraining")
def test_vmap_gives_the_gradients_of_each_row(case):
    model, batch = case.loud_model(std=0.3).train(), case.batch(labels=True)
    batch = {name: values for name, values in batch.items() if not name.endswith("mask")}

    def loss(parameters, row):
        row = {name: values.unsqueeze(0) for name, values in row.items()}
        return torch.func.functional_call(model, parameters, (), row).loss

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    how = {"in_dims": (None, 0), "randomness": "different"}
    found = torch.func.vmap(torch.func.grad(loss), **how)(parameters, batch)
    for row in range(BATCH):
        alone = gradients(case, model, {name: values[row : row + 1] for name, values in batch.items()})
        assert_close({name: values[row] for name, values in found.items()}, alone)


@pytest.mark.parametrize("side", ["left", "right"])
@each
def test_padding_changes_nothing(case, side):
    model, batch = case.loud_model(), case.batch(side, side)
    with torch.no_grad():
        together = model(**batch)[0]
        for row in range(BATCH):
            alone = {
                name: ids[row : row + 1, ..., batch[mask][row].bool().view(-1, ids.shape[-1])[0]]
                for name, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask"))
                if (ids := batch.get(name)) is not None
            }
            real = batch["decoder_attention_mask" if case.kind == "seq2seq" else "attention_mask"][row].bool()
            kept = together[row, real] if case.per_token else together[row]
            assert_close(kept, model(**alone)[0][0])


@each
def test_what_stands_in_the_padding_is_not_read(case):
    model, batch = case.loud_model(), case.batch("left", "right")
    with torch.no_grad():
        before = model(**batch)[0]
        batch["input_ids"] = torch.where(batch["attention_mask"] == 0, 7, batch["input_ids"])
        after = model(**batch)[0]
    if case.per_token and case.kind != "seq2seq":
        real = batch["attention_mask"].bool()
        before, after = before[real], after[real]
    assert torch.equal(before, after)


@each
@pytest.mark.parametrize("side", ["left", "right"])
def test_attention_weights_sum_to_1_over_real_tokens_and_are_0_on_padding(case, side):
    batch = case.batch(side, "left")
    if case.kind == "choice":
        batch = {name: tensor[:, 0] for name, tensor in batch.items()}
        model = case.loud_model().model
    else:
        model = case.loud_model()
    if case.family != RNN:
        model.set_attn_implementation("eager")
    outputs = model(**batch, output_attentions=True)
    source, own = batch["attention_mask"], batch.get("decoder_attention_mask", batch["attention_mask"])
    causal = case.runs_decoder or case.kind in ("causal", "decoder")
    maps = {
        "cross_attentions": (own, source, False),
        "encoder_attentions": (source, source, False),
        "decoder_attentions": (own, own, True),
        "attentions": (source, source, causal),
    }
    seen = 0
    for name, (queries, keys, looks_back) in maps.items():
        for weights in outputs.get(name) or ():
            heads = 1 if case.family == RNN else case.config().num_attention_heads
            assert weights.shape == (BATCH, heads, queries.shape[1], keys.shape[1])
            weights, real = weights.transpose(1, 2), queries.bool()  # (B, T, H, S)
            assert_close(weights.sum(-1)[real], torch.ones(int(real.sum()), heads))
            assert weights.masked_select(real[..., None, None] & (keys[:, None, None] == 0)).abs().sum() == 0
            if looks_back:
                assert (weights * torch.ones(weights.shape[1], weights.shape[-1]).triu(1)[:, None])[real].max() == 0
            assert weights[real].std() > 0.01, "attention that looks at all alike shows nothing"
            seen += 1
    if case.family != RNN:
        config = case.config()
        depth = 2 * config.decoder_layers + config.encoder_layers if case.runs_decoder else None
        encodes = config.encoder_layers if case.family == T5 else config.num_hidden_layers
        assert seen == (encodes if depth is None else depth)
    elif case.kind == "seq2seq":
        assert seen == (case.config().attention_type != "none")


@each
def test_a_tuple_holds_the_same_as_the_outputs_by_name(case):
    model, batch = case.model(), case.batch("right", "left", labels=True)
    with torch.no_grad():
        by_name = model(**batch, output_hidden_states=True, output_attentions=True, use_cache=False)
        as_tuple = model(
            **batch, output_hidden_states=True, output_attentions=True, use_cache=False, return_dict=False
        )
    assert type(as_tuple) is tuple
    assert_close(as_tuple, by_name.to_tuple())
    model.config.return_dict = False
    with torch.no_grad():
        by_config = model(**batch, output_hidden_states=True, output_attentions=True, use_cache=False)
    assert type(by_config) is tuple
    assert_close(by_config, as_tuple)


@each_generator
@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3}], ids=["greedy", "beam"])
def test_cached_generation_equals_uncached(case, options):
    model, batch = case.loud_model(std=1.5), case.batch("left", "left")
    # each token once: a model that says the same all the time could not show a difference
    options = {**options, "max_new_tokens": 8, "do_sample": False, "no_repeat_ngram_size": 1}
    cached, uncached = (model.generate(**batch, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached, uncached)
    assert cached[:, -8:].unique(dim=0).shape[0] > 1


@each_generator
def test_a_prompt_read_in_parts_is_continued_as_one_read_at_once(case):
    model, batch = case.loud_model(std=1.5), case.batch("left", "left")
    options = {"max_new_tokens": 5, "no_repeat_ngram_size": 1, "num_beams": 2}
    if case.kind == "seq2seq":
        with pytest.raises(ValueError, match="prefill_chunk_size=2 is for causal models"):
            model.generate(**batch, **options, prefill_chunk_size=2)
        return
    batch["attention_mask"][1, :2] = 0  # the first part of a row is padding
    assert torch.equal(model.generate(**batch, **options, prefill_chunk_size=2), model.generate(**batch, **options))
    batch["attention_mask"][1] = 0
    with pytest.raises(ValueError, match="all padding in row 2, 3"):
        model.generate(**batch, **options, prefill_chunk_size=2)


@each
def test_steps_with_a_cache_equal_one_pass(case):
    if not case.has_cache:
        if case.family == GPT or case.runs_decoder:
            return
        assert "past_key_values" not in case.model()(**case.batch())
        return
    model, batch = case.loud_model(), case.batch("right")
    name = "decoder_input_ids" if case.kind == "seq2seq" else "input_ids"
    if case.kind != "seq2seq":
        del batch["attention_mask"]
    ids, cache, parts = batch.pop(name), None, []
    batch.pop("decoder_attention_mask", None)
    with torch.no_grad():
        whole = model(**batch, **{name: ids})[0]
        for chunk in ids.split([2, 1, ids.shape[1] - 3], dim=1):
            # a release calls it one thing or the other
            by_name = {"past_key_values" if len(parts) % 2 else "cache": cache}
            outputs = model(**batch, **{name: chunk}, **by_name, use_cache=True)
            cache = outputs.cache
            parts.append(outputs[0])
    assert cache.get_seq_length() == ids.shape[1]
    assert_close(torch.cat(parts, dim=1), whole)


@each
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_gradients_equal_plain_ones(case, use_reentrant):
    # Re-entrant checkpoints take the path without gradients first. A recurrence lays its results out in another order
    # in memory there, and torch's dropout draws its numbers in that order.
    model = case.loud_model(dropout=0.0 if use_reentrant and case.family == RNN else 0.1).train()
    batch = case.batch("right", "left", labels=True)
    if case.has_cache:
        batch["use_cache"] = False  # as with checkpoints: a cache is filled with padding and all
    torch.manual_seed(0)
    plain = gradients(case, model, batch)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    torch.manual_seed(0)
    assert_close(gradients(case, model, batch), plain, 5e-5)  # the first way may round otherwise than the second


@each
def test_saved_and_reopened_it_is_the_same_model(case, tmp_path):
    model, batch = case.loud_model(), case.batch("left", "right")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    auto_class = getattr(transformers, case.auto_class)
    again, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not again.training
    with torch.no_grad():
        assert_close(again(**batch)[0], model(**batch)[0], 1e-6)

    base, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    # what a head does without: BERT's pooler, T5's decoder
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if case.family == T5 and not case.runs_decoder:
        assert missing and all(key.startswith("decoder.") for key in missing)
        return
    assert missing == [] and not report["mismatched_keys"]
    if case.kind == "choice":
        batch = {name: tensor.flatten(0, 1) for name, tensor in batch.items()}
    with torch.no_grad():
        assert_close(base(**batch)[0], model.base_model(**batch)[0], 1e-6)


@each_that(lambda case: case.family == RNN)
def test_built_on_the_meta_device_every_recurrent_parameter_starts_as_documented(case):
    """Recurrent matrices orthogonal, biases 0 (LSTM forget gates 1), projections Xavier, embeddings, heads normal."""
    model_class = load(case.family, case.name)
    config = case.config(hidden_size=16, encoder_hidden_size=16, vocab_size=300)
    model = model_class.from_pretrained(None, config=config, state_dict={})
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        values = parameter.detach()
        if name.endswith("hidden_proj.weight"):
            for gate in values.split(values.shape[1]):
                assert_close(gate @ gate.T, torch.eye(len(gate)))
        elif name.endswith("hidden_proj.bias"):
            expected = torch.zeros_like(values)
            if config.cell_type == "lstm":
                expected.chunk(4)[1].fill_(1)
            assert torch.equal(values, expected), name
        elif name.endswith("bias"):
            assert values.abs().max() == 0, name
        elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
            if name.endswith("embed_tokens.weight") and not (len(values) == 300 and config.tie_word_embeddings):
                assert values[config.pad_token_id].abs().max() == 0, name
            assert values.std().item() == pytest.approx(config.initializer_range, rel=0.15), name
        else:
            bound = math.sqrt(6 / sum(values.shape))
            assert 0.7 * bound < values.abs().max() <= bound, name
            assert abs(values.mean()) < 0.5 * bound, name
    weights = [p.data_ptr() for p in model.parameters()]
    assert len(set(weights)) == len(weights)


@each_transformer
def test_built_on_the_meta_device_every_transformer_parameter_starts_as_documented(case):
    """Norms 1, biases 0, padding 0, the rest normal; projections that end a sub-layer before a norm narrower."""
    model_class, config = load(case.family, case.name), case.config(hidden_size=64, vocab_size=300)
    model = model_class.from_pretrained(None, config=config, state_dict={})
    for name, parameter in model.named_parameters():
        values, std = parameter.detach(), config.initializer_range
        if name.endswith("bias"):
            assert values.abs().max() == 0, name
        elif "norm" in name:
            assert torch.equal(values, torch.ones_like(values)), name
        else:
            if name.endswith(("o_proj.weight", "down_proj.weight")) and config.norm_position == "pre":
                depth = config.encoder_layers if "encoder." in name else config.num_hidden_layers
                std /= math.sqrt(depth * (3 if "decoder." in name else 2))
            tolerance = 0.15 if values.numel() > 300 else 0.9
            assert values.std().item() == pytest.approx(std, rel=tolerance), name
        if case.family == BERT and name.endswith("embed_tokens.weight"):
            assert values[config.pad_token_id].abs().max() == 0
    weights = [p.data_ptr() for p in model.parameters()]
    assert len(set(weights)) == len(weights)


@each_that(lambda case: case.generates or case.kind == "masked")
def test_the_loss_of_a_new_model_is_that_of_guessing(case):
    model = case.model(vocab_size=500, **({} if case.family == RNN else {"max_position_embeddings": 64}))
    generator = torch.Generator().manual_seed(0)
    batch = case.batch("right", "right", labels=True)
    batch["labels"] = torch.randint(3, 500, (BATCH, 40), generator=generator)
    if case.kind != "seq2seq":
        batch = {"input_ids": batch["labels"], "labels": batch["labels"]}
    assert case.loss(model, batch).item() == pytest.approx(math.log(500), rel=0.02)


@each
def test_a_training_step_under_bf16_autocast_is_close_to_float32(case):
    model, batch = case.loud_model(std=0.3).train(), case.batch("right", "left", labels=True)
    loss, exact = case.loss(model, batch).item(), gradients(case, model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough_loss = case.loss(model, batch)
    assert rough_loss.item() == pytest.approx(loss, rel=0.03)
    model.zero_grad()
    rough_loss.backward()
    rough = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient.dtype == torch.float32 for gradient in rough.values())
    # Of a Transformer, all as one: some of its gradients are nothing but rounding, as those of biases of keys are.
    parts = [list(rough)] if case.family != RNN else [[name] for name in rough]
    for names in parts:
        found, expected = (torch.cat([grads[name].flatten() for name in names]) for grads in (rough, exact))
        likeness = nn.functional.cosine_similarity(found, expected, dim=0)
        assert likeness > 0.95, (likeness, names)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_weights_of_another_precision_work(case, dtype):
    batch = case.batch("left", "right", labels=True)
    exact, model = case.loud_model(std=0.3), case.loud_model(std=0.3).to(dtype)
    tolerance = 1e-5 if dtype == torch.float64 else 0.2
    with torch.no_grad():
        expected, found = exact(**batch), model(**batch)
    names = {"span": "start_logits", "pretraining": "prediction_logits"}
    name = names.get(case.kind, "logits") if case.has_head else "last_hidden_state"
    assert found[name].dtype == dtype
    assert_close(found[name].float(), expected[name], tolerance)
    assert all(gradient.dtype == dtype for gradient in gradients(case, model.train(), batch).values())
    if case.generates:
        ids = model.eval().generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=4)
        assert len(ids) == BATCH


@each
@pytest.mark.parametrize("size", [12, 31])
def test_resized_embeddings_keep_the_old_rows_on_every_side(case, size):
    model, config = case.loud_model(), case.config()
    before = {name: parameter.detach().clone() for name, parameter in model.state_dict().items()}
    returned = model.resize_token_embeddings(size)
    assert model.get_input_embeddings() is returned
    two = case.kind == "seq2seq" and case.family == RNN and config.source_vocab_size is not None
    if two:
        assert (model.config.source_vocab_size, model.config.vocab_size) == (size, config.vocab_size)
        model.resize_decoder_token_embeddings(size - 3)
        assert (model.config.source_vocab_size, model.config.vocab_size) == (size, size - 3)
    else:
        assert model.config.vocab_size == size
    after = model.state_dict()
    assert before.keys() == after.keys()
    for name, old in before.items():
        new = after[name]
        if name.endswith(("embed_tokens.weight", "lm_head.weight", "lm_head.bias")):
            assert len(new) == (size - 3 if two and "encoder" not in name else size), name
            kept = min(len(old), len(new))
            assert torch.equal(new[:kept], old[:kept]), name
        else:
            assert torch.equal(new, old), name
    scores_words = case.generates or case.kind == "masked"
    if scores_words and config.tie_word_embeddings:
        head, table = model.lm_head, model.get_input_embeddings()
        if case.family == RNN and (case.kind == "causal" or not config.share_encoder_decoder_embeddings):
            table = model.model.decoder.embed_tokens
        assert head.weight is table.weight
        assert head.out_features == table.num_embeddings == model.config.vocab_size
    if scores_words:
        top = model.config.vocab_size - 1
        ids = torch.full((2, 3), size - 1)
        batch = {"input_ids": ids, "labels": torch.full((2, 3), top)}
        outputs = model(**batch)
        assert outputs.logits.shape[-1] == top + 1
        assert outputs.loss.isfinite()
        case.loss(model.train(), batch).backward()
        with pytest.raises(ValueError, match="labels"):
            model(input_ids=ids, labels=torch.full((2, 3), top + 1))
        with pytest.raises(ValueError, match="input_ids"):
            model(input_ids=torch.full((2, 3), size), labels=batch["labels"])


@each
def test_a_resized_model_reopens(case, tmp_path):
    model = case.loud_model()
    model.resize_token_embeddings(31)
    if case.family == RNN and case.kind == "seq2seq" and case.config().source_vocab_size is not None:
        model.resize_decoder_token_embeddings(29)
    model.save_pretrained(tmp_path)
    again = getattr(transformers, case.auto_class).from_pretrained(tmp_path)
    assert_close(dict(again.state_dict()), dict(model.state_dict()), 0)


@each
def test_a_row_does_not_depend_on_the_rows_beside_it(case):
    model, batch = case.loud_model(), case.batch()
    batch = {name: tensor for name, tensor in batch.items() if "mask" not in name}
    with torch.no_grad():
        together = model(**batch)[0]
        alone = [model(**{name: ids[row : row + 1] for name, ids in batch.items()})[0] for row in range(BATCH)]
    assert_close(together, torch.cat(alone))


@each_that(lambda case: case.packs)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_several_texts_packed_in_one_row_are_as_each_alone(case, implementation):
    if case.config().attention_type == "additive":
        implementation = "eager"
    model = case.loud_model()
    model.set_attn_implementation(implementation)
    ids, lengths = case.batch()["input_ids"], (6, 2, 4)
    texts = [row[None, :length] for row, length in zip(ids, lengths, strict=True)]
    first = case.config().position_offset if case.family == BERT else 0
    positions = torch.cat([torch.arange(length) for length in lengths])[None] + first
    direction = torch.linspace(-1, 1, 12).view(1, 12, *([] if case.kind == "span" else [1]))

    def outputs_and_gradients(batches):
        model.zero_grad()
        made = torch.cat([model(**batch)[0] for batch in batches], dim=1)
        (made * direction).sum().backward()
        return made.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    packed = outputs_and_gradients([{"input_ids": torch.cat(texts, 1), "position_ids": positions}])
    alone = outputs_and_gradients([{"input_ids": text} for text in texts])
    assert_close(packed, alone, 1e-4)


@each_that(lambda case: case.packs and case.kind in ("causal", "masked", "token"))
def test_the_loss_of_packed_texts_and_its_gradients_are_those_of_each_alone(case):
    model = case.loud_model().train()
    ids, lengths = case.batch()["input_ids"], (6, 2, 4)
    texts = [row[None, :length] for row, length in zip(ids, lengths, strict=True)]
    labels = [text % LABELS if case.kind == "token" else text.clone() for text in texts]
    if case.kind == "causal":
        for label in labels:
            label[:, 0] = -100  # nothing before it to guess it from
    first = case.config().position_offset if case.family == BERT else 0
    packed = {
        **{"input_ids": torch.cat(texts, 1), "labels": torch.cat(labels, 1)},
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None] + first,
    }
    count = int((packed["labels"] != -100).sum())
    expected, total = None, 0.0
    for text, label in zip(texts, labels, strict=True):
        loss = model(input_ids=text, labels=label, num_items_in_batch=count).loss
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        expected = found if expected is None else [a + b for a, b in zip(expected, found, strict=True)]
        total += loss.item()
    loss = model(**packed).loss
    assert loss.item() == pytest.approx(total, rel=1e-5)
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    assert_close(list(found), list(expected))


@each_generator
def test_beam_search_wide_enough_finds_the_best_of_all_texts(case):
    words, length = 6, 3
    model = case.loud_model(vocab_size=words)
    batch = case.batch("left", vocab_size=words)
    batch = {name: tensor for name, tensor in batch.items() if not name.startswith("decoder")}
    # no end of text, which would bring in texts of other lengths
    model.generation_config.eos_token_id = None
    found = model.generate(
        **batch, num_beams=words**2, max_new_tokens=length, do_sample=False, length_penalty=0.0, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    every = torch.tensor(list(itertools.product(range(words), repeat=length)))  # (V ** 3, 3)
    for row in range(BATCH):
        one = {name: tensor[row : row + 1].expand(len(every), -1) for name, tensor in batch.items()}
        with torch.no_grad():
            if case.kind == "seq2seq":
                start = torch.full((len(every), 1), model.config.decoder_start_token_id)
                logits = model(**one, decoder_input_ids=torch.cat([start, every[:, :-1]], 1)).logits
            else:
                text = torch.cat([one["input_ids"], every], 1)
                mask = torch.cat([one["attention_mask"], torch.ones_like(every)], 1)
                logits = model(input_ids=text, attention_mask=mask).logits[:, -length - 1 : -1]
        scores = logits.log_softmax(-1).gather(2, every[..., None]).sum((1, 2))
        assert found.sequences[row, -length:].tolist() == every[scores.argmax()].tolist()
        assert found.sequences_scores[row].item() == pytest.approx(scores.max().item(), abs=1e-4)


@each_transformer
@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_every_attention_implementation_gives_what_the_plain_one_gives(case, implementation):
    model, batch = case.loud_model(), case.batch("left", "right")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**batch)[0]
    if case.config().attention_type == "additive":
        with pytest.raises(ValueError, match="additive"):
            model.set_attn_implementation(implementation)
        return
    model.set_attn_implementation(implementation)
    assert attention_of(model.config) == implementation
    # flex attention is meant to be compiled, which would take a minute here
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        found = model(**batch)[0]
    real = batch["decoder_attention_mask" if case.kind == "seq2seq" else "attention_mask"].bool()
    assert_close(*((x[real] if case.per_token else x) for x in (found, expected)), 1e-4)


@each_that(lambda case: case.generates and case.family != RNN)
def test_generation_with_a_static_cache_is_that_with_a_growing_one(case):
    model, batch = case.loud_model(std=1.5), case.batch("left", "left")
    options = {"max_new_tokens": 8, "do_sample": False, "no_repeat_ngram_size": 1}
    expected = model.generate(**batch, **options)
    assert torch.equal(model.generate(**batch, **options, cache_implementation="static"), expected)
