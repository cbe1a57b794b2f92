"""The recurrent family: its configurations, its losses, what it refuses, and its equations."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from tiny_rnn import ENCODER_DECODERS, STACKS, TWO_LAYERS, ragged, tiny_config, tiny_model

from hf_genai import (
    GenaiRNNConfig,
    GenaiRNNForCausalLM,
    GenaiRNNForConditionalGeneration,
    GenaiRNNForSequenceClassification,
    GenaiRNNForTokenClassification,
    GenaiRNNModel,
)
from hf_genai.models.fast_path import plain_kernels

START, PAD = 1, 0


def translator(variant: dict | None = None, **more) -> GenaiRNNForConditionalGeneration:
    return tiny_model(GenaiRNNForConditionalGeneration, variant, **more)


def sentences(batch: int = 3, side: str = "right", source: int = 6, target: int = 5) -> dict:
    ids, mask = ragged(batch, source, 19, side)
    target, target_mask = ragged(batch, target, 19, seed=1)
    return {"input_ids": ids, "attention_mask": mask, "labels": target.masked_fill(target_mask == 0, -100)}


# Configurations


def reason_to_refuse(choice: dict) -> str | None:
    """The word that the refusal of a combination must hold; None where the combination has a meaning."""
    if choice["bidirectional_encoder"] and choice["reverse_source"]:
        return "reverse_source"
    if choice["input_feeding"] and (choice["attention_type"] == "none" or choice["attention_position"] == "before"):
        return "input_feeding"
    if choice["attention_type"] == "dot" and choice["encoder_hidden_size"] != 4:
        return "dot"
    if choice["tie_word_embeddings"] and choice["embedding_size"] != 4:
        return "tie_word_embeddings"
    if choice["share_encoder_decoder_embeddings"] and choice["source_vocab_size"]:
        return "source_vocab_size"
    return None


def combinations(**choices: list):
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


CHOICES = {
    "cell_type": ["gru", "lstm"],
    "bidirectional_encoder": [True, False],
    "reverse_source": [True, False],
    "attention_type": ["none", "dot", "general", "additive", "scaled_dot"],
    "attention_position": ["before", "after"],
    "input_feeding": [True, False],
    "encoder_hidden_size": [4, 6],
}
TABLES = {
    "embedding_size": [4, 6],
    "tie_word_embeddings": [True, False],
    "share_encoder_decoder_embeddings": [True, False],
    "source_vocab_size": [None, 11],
    "cell_type": ["gru", "lstm"],
}
DEFAULTS = {name: getattr(GenaiRNNConfig(), name) for name in (*CHOICES, *TABLES)}


@pytest.mark.parametrize("choices", [CHOICES, TABLES], ids=["layers", "tables"])
def test_every_combination_works_or_is_refused_with_its_reason(choices):
    ids, working, refused = torch.tensor([[3, 4, 2], [5, 2, 0]]), 0, 0
    for choice in combinations(**choices):
        choice = {**DEFAULTS, "encoder_hidden_size": 4, "embedding_size": 4, **choice}
        reason = reason_to_refuse(choice)
        if reason is not None:
            with pytest.raises(StrictDataclassError, match=reason):
                GenaiRNNConfig(vocab_size=9, hidden_size=4, attention_size=5, **choice)
            refused += 1
            continue
        config = GenaiRNNConfig(vocab_size=9, hidden_size=4, attention_size=5, **choice)
        outputs = GenaiRNNForConditionalGeneration(config)(
            ids, attention_mask=ids.ne(0), labels=ids, skip_logits=False
        )
        assert outputs.loss.isfinite(), choice
        assert outputs.logits.shape == (2, 3, 9), choice
        working += 1
    assert working > 0
    assert refused > 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": 4, "encoder_hidden_size": 5}, "encoder_hidden_size"),
        ({"cell_type": "rnn"}, "cell_type"),
        ({"attention_type": "cosine"}, "attention_type"),
        ({"attention_position": "middle"}, "attention_position"),
        ({"dropout": 1.5}, "dropout"),
        ({"classifier_dropout": -0.1}, "classifier_dropout"),
        ({"classifier_dropout": 1.1}, "classifier_dropout"),
        ({"encoder_layers": 0}, "encoder_layers"),
        ({"source_vocab_size": 0, "share_encoder_decoder_embeddings": False}, "source_vocab_size"),
        ({"attention_size": -1}, "attention_size"),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused_by_name(wrong, named):
    with pytest.raises(StrictDataclassError, match=named):
        GenaiRNNConfig(**wrong)


@pytest.mark.parametrize("model_class", [GenaiRNNForCausalLM, GenaiRNNForSequenceClassification])
def test_a_head_leaves_the_callers_configuration_as_it_was(model_class):
    config = tiny_config()
    model_class(config)
    assert config.is_encoder_decoder
    assert not config.is_decoder


# Losses


def test_the_loss_is_the_cross_entropy_of_unshifted_labels():
    model, batch = translator(), sentences()
    outputs = model(**batch)
    labels = batch["labels"]
    loss, counted = 0.0, 0
    for row, places in enumerate(labels.tolist()):
        for place, label in enumerate(places):
            if label != -100:
                loss -= outputs.logits[row, place].log_softmax(-1)[label].item()
                counted += 1
    assert outputs.loss.item() == pytest.approx(loss / counted, rel=1e-5)


def test_the_decoder_reads_the_labels_shifted_right():
    model, batch = translator(), sentences()
    labels = batch["labels"]
    read = torch.cat([torch.full((3, 1), START), labels[:, :-1].masked_fill(labels[:, :-1] == -100, PAD)], dim=1)
    assert torch.equal(model.prepare_decoder_input_ids_from_labels(labels), read)
    torch.testing.assert_close(model(**batch).logits, model(**batch, decoder_input_ids=read).logits)
    # a decoder that reads a label in order to predict it would depend on it
    changed = {**batch, "labels": labels.clone()}
    changed["labels"][0, 2] = 3 if labels[0, 2] != 3 else 4
    before, after = model(**batch).logits[0], model(**changed).logits[0]
    torch.testing.assert_close(before[:3], after[:3])
    assert (before[3:] - after[3:]).abs().max() > 1e-3


def test_labels_cannot_be_shifted_without_a_start_token():
    model, batch = translator(decoder_start_token_id=None), sentences()
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        model(**batch)


@pytest.mark.parametrize("model_class", [GenaiRNNForConditionalGeneration, GenaiRNNForCausalLM])
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_divided_by_the_number_of_items_where_it_is_given(model_class, training):
    model, batch = tiny_model(model_class).train(training), sentences()
    if model_class is GenaiRNNForCausalLM:
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    counted = int((batch["labels"][:, 1:] if model_class is GenaiRNNForCausalLM else batch["labels"]).ne(-100).sum())
    loss, shared = model(**batch).loss, model(**batch, num_items_in_batch=torch.tensor(50)).loss
    assert shared.item() == pytest.approx(loss.item() * counted / 50, rel=1e-5)


def test_label_smoothing_is_torchs():
    model, batch = translator(), sentences()
    outputs = model(**batch, label_smoothing=0.1)
    labels = batch["labels"].flatten()
    expected = F.cross_entropy(outputs.logits.flatten(0, 1), labels, label_smoothing=0.1)
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.train()(**batch, label_smoothing=0.1).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_language_model_predicts_the_next_token_of_its_labels():
    model = tiny_model(GenaiRNNForCausalLM)
    ids = sentences()["input_ids"].clamp(min=3)
    outputs = model(ids, labels=ids)
    expected = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    shifted = F.pad(ids, (0, 1), value=-100)[:, 1:]
    assert model(ids, shift_labels=shifted).loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("model_class", [GenaiRNNForConditionalGeneration, GenaiRNNForCausalLM])
def test_logits_are_skipped_in_training_alone_and_the_loss_is_the_same(model_class):
    model, batch = tiny_model(model_class), sentences()
    if model_class is GenaiRNNForCausalLM:
        batch["labels"] = batch["input_ids"]
    evaluated, trained = model.eval()(**batch), model.train()(**batch)
    assert evaluated.logits is not None
    assert trained.logits is None
    assert trained.loss.item() == pytest.approx(evaluated.loss.item(), rel=1e-5)
    assert model.train()(**batch, skip_logits=False).logits is not None
    skipped = model.eval()(**batch, skip_logits=True)
    assert skipped.logits is None
    assert len(skipped.to_tuple()) == len(evaluated.to_tuple()) - 1
    with pytest.raises(ValueError, match="skip_logits"):
        model(batch["input_ids"], skip_logits=True)


def test_logits_to_keep_returns_the_last_ones():
    model, batch = translator(), sentences()
    batch["decoder_input_ids"] = batch.pop("labels").clamp(min=0)
    whole = model(**batch).logits
    torch.testing.assert_close(model(**batch, logits_to_keep=2).logits, whole[:, -2:])
    torch.testing.assert_close(model(**batch, logits_to_keep=torch.tensor([0, 3])).logits, whole[:, [0, 3]])
    with_labels = {**sentences(), "logits_to_keep": 2}
    assert model(**with_labels).loss.item() == pytest.approx(model(**sentences()).loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("single_label_classification", torch.tensor([0, 3, 1])),
        ("multi_label_classification", torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])),
        ("regression", torch.randn(3, 4)),
    ],
)
def test_classifying_a_text_has_the_loss_of_its_problem(problem, labels):
    model = tiny_model(GenaiRNNForSequenceClassification, num_labels=4, problem_type=problem)
    outputs = model(sentences()["input_ids"], labels=labels)
    expected = {
        "single_label_classification": F.cross_entropy,
        "multi_label_classification": F.binary_cross_entropy_with_logits,
        "regression": F.mse_loss,
    }[problem](outputs.logits, labels)
    torch.testing.assert_close(outputs.loss, expected)


def test_classifying_tokens_ignores_minus_100():
    model = tiny_model(GenaiRNNForTokenClassification, num_labels=4)
    ids, labels = sentences()["input_ids"], torch.randint(4, (3, 6)).index_fill(1, torch.tensor([1, 4]), -100)
    outputs = model(ids, labels=labels)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten()))


# Refusals

IDS, MASK = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
VECTORS = torch.zeros(2, 3, 8)
REFUSED = [
    ({"input_ids": torch.full((2, 3), 19)}, "input_ids"),
    ({"input_ids": torch.full((2, 3), -1)}, "input_ids"),
    ({"input_ids": IDS.float()}, "input_ids"),
    ({"input_ids": IDS[:0]}, "input_ids"),
    ({"input_ids": IDS[:, :0]}, "input_ids"),
    ({"input_ids": IDS[0]}, "input_ids"),
    ({"input_ids": IDS, "inputs_embeds": VECTORS}, "input_ids or inputs_embeds, not both"),
    ({"labels": IDS}, "input_ids or inputs_embeds, not neither"),
    ({"inputs_embeds": torch.zeros(2, 3, 5), "labels": IDS}, "inputs_embeds"),
    ({"inputs_embeds": torch.zeros(0, 3, 8), "decoder_input_ids": IDS}, "inputs_embeds"),
    ({"input_ids": IDS, "attention_mask": MASK[:, :2]}, "attention_mask"),
    ({"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, "attention_mask.*row 1"),
    ({"input_ids": IDS, "decoder_input_ids": torch.full((2, 3), 19)}, "decoder_input_ids"),
    ({"input_ids": IDS, "decoder_input_ids": IDS[:1]}, "decoder_input_ids"),
    (
        {"input_ids": IDS, "decoder_input_ids": IDS, "decoder_inputs_embeds": VECTORS},
        "decoder_inputs_embeds, not both",
    ),
    ({"input_ids": IDS, "decoder_input_ids": IDS, "decoder_attention_mask": MASK[:, :2]}, "decoder_attention_mask"),
    ({"input_ids": IDS, "decoder_input_ids": IDS, "decoder_attention_mask": MASK[:1]}, "decoder_attention_mask"),
    ({"input_ids": IDS, "labels": IDS + 14}, "labels"),
    ({"input_ids": IDS, "labels": IDS - 14}, "labels"),
    ({"input_ids": IDS, "labels": IDS.float()}, "labels"),
    ({"input_ids": IDS, "labels": IDS[:, :2], "decoder_input_ids": IDS}, "labels"),
]


@pytest.mark.parametrize(
    ("inputs", "message"), REFUSED, ids=[f"{i}: {message}" for i, (_, message) in enumerate(REFUSED)]
)
def test_impossible_inputs_are_refused_by_name(inputs, message):
    with pytest.raises(ValueError, match=message):
        translator()(**inputs)


@pytest.mark.parametrize("training", [True, False])
def test_labels_of_another_length_are_refused_in_both_modes(training):
    with pytest.raises(ValueError, match="labels"):
        translator().train(training)(input_ids=IDS, decoder_input_ids=IDS, labels=IDS[:, :2])


@pytest.mark.parametrize("model_class", [GenaiRNNForCausalLM, GenaiRNNForSequenceClassification])
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": torch.full((2, 3), 19)}, "input_ids"),
        ({"input_ids": IDS, "inputs_embeds": VECTORS}, "inputs_embeds"),
        ({}, "input_ids"),
        ({"input_ids": IDS, "attention_mask": MASK[:, :2]}, "attention_mask"),
    ],
    ids=["range", "both", "neither", "mask"],
)
def test_the_other_heads_name_their_inputs_too(model_class, inputs, message):
    with pytest.raises(ValueError, match=rf"\b{message}") as error:
        tiny_model(model_class)(**inputs)
    assert "decoder_" not in str(error.value)


@pytest.mark.parametrize("wrong", [torch.tensor([0, 4, 1]), torch.tensor([0, -1, 1])])
def test_classes_out_of_range_are_refused(wrong):
    ids = sentences()["input_ids"]
    with pytest.raises(ValueError, match="labels"):
        tiny_model(GenaiRNNForSequenceClassification, num_labels=4)(ids, labels=wrong)
    with pytest.raises(ValueError, match="labels"):
        tiny_model(GenaiRNNForTokenClassification, num_labels=4)(ids, labels=wrong[:, None].expand(ids.shape))


# The equations


def walk(cell_type: str, weights: dict, name: str, inputs, state: tuple, extra=None) -> tuple:
    """One step of a cell for one sentence: input (E,) and state (h,) or (h, c), each (D,)."""
    gates = weights[f"{name}.input_proj.weight"] @ inputs + weights[f"{name}.input_proj.bias"]
    if extra is not None:
        gates = gates + extra
    hidden_weight, hidden_bias = weights[f"{name}.hidden_proj.weight"], weights[f"{name}.hidden_proj.bias"]
    if cell_type == "gru":
        (h,) = state
        reset_x, update_x, new_x = gates.chunk(3)
        reset_h, update_h, new_h = (hidden_weight @ h + hidden_bias).chunk(3)
        reset, update = torch.sigmoid(reset_x + reset_h), torch.sigmoid(update_x + update_h)
        candidate = torch.tanh(new_x + reset * new_h)
        return ((1 - update) * candidate + update * h,)
    h, c = state
    i, f, g, o = (gates + hidden_weight @ h + hidden_bias).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def look(config, weights: dict, name: str, h, memory: list) -> tuple:
    """Return the weights (S,) that a decoder state h (D,) gives to the encoder outputs, and their weighted sum."""
    scores = []
    for place in memory:
        if config.attention_type == "dot":
            scores.append(h @ place)
        elif config.attention_type == "general":
            scores.append(h @ (weights[f"{name}.key_proj.weight"] @ place))
        elif config.attention_type == "scaled_dot":
            query, key = weights[f"{name}.query_proj.weight"] @ h, weights[f"{name}.key_proj.weight"] @ place
            scores.append(query @ key / config.attention_size**0.5)
        else:
            query, key = weights[f"{name}.query_proj.weight"] @ h, weights[f"{name}.key_proj.weight"] @ place
            key = key + weights[f"{name}.key_proj.bias"]
            scores.append(weights[f"{name}.score_function.energy.weight"][0] @ torch.tanh(query + key))
    alignment = torch.softmax(torch.stack(scores), dim=0)
    return alignment, sum(a * place for a, place in zip(alignment, memory, strict=True))


def readout(weights: dict, name: str, h, context):
    """The attentional vector, Luong et al. (2015), equation 5."""
    mixed = weights[f"{name}.state_proj.weight"] @ h + weights[f"{name}.context_proj.weight"] @ context
    return torch.tanh(mixed + weights[f"{name}.context_proj.bias"])


def by_the_equations(model, source: list[int], target: list[int]) -> tuple:
    """Return logits (T, V) and alignments (T, S) of one sentence, one step after the other."""
    config, weights = model.config, dict(model.named_parameters())
    cell, slots, size = config.cell_type, 1 if config.cell_type == "gru" else 2, config.hidden_size
    table = weights["model.encoder.embed_tokens.weight"]
    outputs = [table[token] for token in source]
    names = ["left_to_right", "right_to_left"] if config.bidirectional_encoder else ["left_to_right"]
    names = ["right_to_left"] if config.reverse_source else names
    for depth in range(config.encoder_layers):
        parts = []
        for direction in names:
            zero = table.new_zeros(config.encoder_hidden_size // len(names))
            state, read = (zero,) * slots, []
            for vector in outputs if direction == "left_to_right" else outputs[::-1]:
                state = walk(cell, weights, f"model.encoder.layers.{depth}.{direction}", vector, state)
                read.append(state[0])
            parts.append(read if direction == "left_to_right" else read[::-1])
        outputs = [torch.cat(part) for part in zip(*parts, strict=True)]
    ends = [part[-1] if name == "left_to_right" else part[0] for part, name in zip(parts, names, strict=True)]
    summary = torch.cat(ends)

    bridge = torch.tanh(weights["model.decoder.bridge.weight"] @ summary + weights["model.decoder.bridge.bias"])
    states = [tuple(layer) for layer in bridge.view(config.decoder_layers, slots, size)]
    table = weights.get("model.decoder.embed_tokens.weight", table)
    head = weights.get("lm_head.weight", table)
    attends, before = config.attention_type != "none", config.attention_position == "before"
    inside, fed, logits, alignments = "model.decoder.layers.0", table.new_zeros(size), [], []
    for token in target:
        hidden, extra = table[token], None
        if attends and before:
            alignment, context = look(config, weights, f"{inside}.attention", states[0][0], outputs)
            extra = weights[f"{inside}.feed_proj.weight"] @ context
        elif config.input_feeding:
            extra = weights[f"{inside}.feed_proj.weight"] @ fed
        elif before:
            extra = weights["model.decoder.summary_proj.weight"] @ summary
        for depth in range(config.decoder_layers):
            name = f"model.decoder.layers.{depth}"
            states[depth] = walk(cell, weights, name, hidden, states[depth], extra if depth == 0 else None)
            hidden = states[depth][0]
            if depth == 0 and config.input_feeding:
                alignment, context = look(config, weights, f"{inside}.attention", hidden, outputs)
            if depth == 0 and attends and (before or config.input_feeding):
                hidden = fed = readout(weights, f"{inside}.attention", hidden, context)
        if attends and not before and not config.input_feeding:
            alignment, context = look(config, weights, "model.decoder.attention", hidden, outputs)
            hidden = readout(weights, "model.decoder.attention", hidden, context)
        logits.append(head @ hidden)
        if attends:
            alignments.append(alignment)
    return torch.stack(logits), torch.stack(alignments) if attends else None


EQUATIONS = {
    "Bahdanau": {"attention_type": "additive", "attention_position": "before"},
    "Luong, fed": {"attention_type": "general", "input_feeding": True},
    "additive, fed": {"attention_type": "additive", "input_feeding": True},
    "Luong, unfed": {"attention_type": "dot"},
    "additive, unfed": {"attention_type": "additive", "attention_size": 5},
    "scaled dot before": {"attention_type": "scaled_dot", "attention_position": "before", "attention_size": 5},
    "Cho": {"attention_type": "none", "attention_position": "before"},
    "Sutskever": {"attention_type": "none", "bidirectional_encoder": False, "reverse_source": True},
}


@pytest.mark.parametrize("cell_type", ["gru", "lstm"])
@pytest.mark.parametrize("variant", EQUATIONS.values(), ids=list(EQUATIONS))
def test_outputs_and_gradients_are_those_of_the_papers_equations(variant, cell_type):
    model = translator(variant, cell_type=cell_type, hidden_size=6, std=0.5, **TWO_LAYERS).double().train()
    batch = sentences(side="left")
    read = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    loss, expected_loss = 0.0, 0.0
    for row in range(3):
        real, length = batch["attention_mask"][row].bool(), int(batch["labels"][row].ne(-100).sum())
        source, target = batch["input_ids"][row, real].tolist(), read[row, :length].tolist()
        logits, alignments = by_the_equations(model, source, target)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        outputs = model(**inputs, decoder_input_ids=read, output_attentions=True)
        torch.testing.assert_close(outputs.logits[row, :length], logits, atol=1e-9, rtol=1e-9)
        if alignments is not None:
            found = outputs.cross_attentions[0][row, 0, :length][:, real]
            torch.testing.assert_close(found, alignments, atol=1e-9, rtol=1e-9)
        expected_loss = expected_loss + F.cross_entropy(logits, batch["labels"][row, :length], reduction="sum")
    expected_loss = expected_loss / batch["labels"].ne(-100).sum()
    parameters = dict(model.named_parameters())

    def gradients(loss):
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))

    expected = gradients(expected_loss)
    # the padding token's vector is never read in a sentence of its own; the table leaves it out of its gradient, too
    loss = model(**batch).loss
    torch.testing.assert_close(loss, expected_loss, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(gradients(loss), expected, atol=1e-9, rtol=1e-9)
    with plain_kernels():
        torch.testing.assert_close(gradients(model(**batch).loss), expected, atol=1e-9, rtol=1e-9)


# Embeddings


def test_sides_that_share_a_table_change_together():
    model, ids = translator(), torch.tensor([[3, 4, 5]])
    source, target = (
        (lambda: model.model.encoder(ids)[0]),
        (lambda: model(torch.tensor([[7, 8]]), decoder_input_ids=ids)),
    )
    before = source(), target().logits
    assert len({p.data_ptr() for name, p in model.state_dict().items() if "embed" in name or "lm_head" in name}) == 1
    table = torch.nn.Embedding.from_pretrained(torch.randn(19, 8), freeze=False)
    model.set_input_embeddings(table)
    model.tie_weights()
    assert (source() - before[0]).abs().max() > 1e-3
    assert (target().logits - before[1]).abs().max() > 1e-3
    assert model.get_output_embeddings().weight is table.weight
    assert [name for name, p in model.named_parameters() if p.shape == (19, 8) and p is not table.weight] == []


def test_two_vocabularies_share_nothing():
    model = translator(ENCODER_DECODERS["gru, none before, two vocabularies"])
    encoder, decoder = model.model.encoder.embed_tokens, model.model.decoder.embed_tokens
    assert (len(encoder.weight), len(decoder.weight), len(model.lm_head.weight)) == (23, 19, 19)
    assert model.lm_head.weight is decoder.weight
    assert model(torch.tensor([[22]]), labels=torch.tensor([[18]])).loss.isfinite()


def test_vectors_instead_of_ids_give_the_same():
    model, batch = translator(), sentences()
    batch["decoder_input_ids"] = batch.pop("labels").clamp(min=0)
    table = model.get_input_embeddings()
    vectors = {
        "inputs_embeds": table(batch["input_ids"]),
        "attention_mask": batch["attention_mask"],
        "decoder_inputs_embeds": table(batch["decoder_input_ids"]),
    }
    torch.testing.assert_close(model(**vectors).logits, model(**batch).logits)


def test_without_a_target_the_source_is_read_shifted_right():
    model, batch = tiny_model(GenaiRNNModel), sentences()
    ids = batch["input_ids"]
    shifted = torch.cat([torch.full((3, 1), START), ids[:, :-1]], dim=1)
    torch.testing.assert_close(model(ids)[0], model(ids, decoder_input_ids=shifted)[0])


# What others do with the model


@pytest.mark.parametrize("variant", ["gru, additive fed, two layers", "gru, additive before, two layers"])
def test_adapters_on_every_projection_start_equal_train_and_merge(variant):
    import peft

    model, batch = translator(ENCODER_DECODERS[variant], std=0.3), sentences()
    before = model(**batch).logits
    options = peft.LoraConfig(r=2, lora_alpha=8, target_modules="all-linear")
    adapted = peft.get_peft_model(model, options)
    torch.testing.assert_close(adapted.eval()(**batch).logits, before, atol=1e-5, rtol=1e-5)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    optimizer, losses = torch.optim.Adam(trained.values(), lr=0.02), []
    adapted.train()
    for _ in range(15):
        optimizer.zero_grad()
        loss = adapted(**batch).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert [name for name, p in trained.items() if p.grad is None or p.grad.abs().max() == 0] == []
    after = adapted.eval()(**batch).logits
    assert (after - before).abs().max() > 0.01
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(**batch).logits, after, atol=1e-4, rtol=1e-4)


def test_the_compiled_model_is_one_graph_and_equal():
    torch.compiler.reset()
    model, batch = translator(input_feeding=True, bidirectional_encoder=False), sentences(2, "left", 3, 3)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    outputs, expected = compiled(**batch), model(**batch)
    torch.testing.assert_close(outputs.logits, expected.logits)
    outputs.loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    expected.loss.backward()
    torch.testing.assert_close(found, {name: p.grad for name, p in model.named_parameters()}, atol=1e-5, rtol=1e-4)
    torch.compiler.reset()


def test_a_compiled_decoder_step_goes_on_from_a_cache():
    torch.compiler.reset()
    model, batch = translator(input_feeding=True), sentences()
    target = batch.pop("labels").clamp(min=0)
    encoded = model.get_encoder()(batch["input_ids"], attention_mask=batch["attention_mask"])
    inputs = {"encoder_outputs": encoded, "attention_mask": batch["attention_mask"], "use_cache": True}
    step = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        caches = [model(decoder_input_ids=target[:, :1], **inputs).past_key_values for _ in range(2)]
        for place in range(1, 4):
            ids = target[:, place : place + 1]
            plain = model(decoder_input_ids=ids, past_key_values=caches[0], **inputs)
            found = step(decoder_input_ids=ids, past_key_values=caches[1], **inputs)
            torch.testing.assert_close(found.logits, plain.logits)
    assert caches[1].get_seq_length() == 4
    torch.compiler.reset()


@pytest.mark.parametrize("variant", STACKS.values(), ids=list(STACKS))
def test_torchs_own_layers_compute_the_same(variant):
    """Weights and gates are in torch's order, so a language model equals torch.nn.GRU or torch.nn.LSTM."""
    model = tiny_model(GenaiRNNForCausalLM, variant)
    layers, ids = model.model.decoder.layers, sentences()["input_ids"]
    twin = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[model.config.cell_type](8, 8, len(layers), batch_first=True)
    for depth, layer in enumerate(layers):
        for name, linear in (("ih", layer.input_proj), ("hh", layer.hidden_proj)):
            getattr(twin, f"weight_{name}_l{depth}").data.copy_(linear.weight)
            getattr(twin, f"bias_{name}_l{depth}").data.copy_(linear.bias)
    expected = twin(model.get_input_embeddings()(ids))[0]
    torch.testing.assert_close(model.model(ids).last_hidden_state, expected)
