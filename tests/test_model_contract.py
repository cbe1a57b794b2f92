"""What every registered model class promises, whatever its family: one battery, a table of tiny configurations."""

import math
from dataclasses import dataclass

import pytest
import tiny_rnn
import torch
import transformers
from torch import nn

from hf_genai.registry import FAMILIES, load

# family -> kind of model -> variant -> arguments of its configuration
TINY = {
    "genai_rnn": {
        "seq2seq": tiny_rnn.ENCODER_DECODERS,
        "causal": tiny_rnn.STACKS,
        "sequence": tiny_rnn.STACKS,
        "token": tiny_rnn.STACKS,
    }
}
KINDS = {
    "AutoModel": "seq2seq",
    "AutoModelForSeq2SeqLM": "seq2seq",
    "AutoModelForCausalLM": "causal",
    "AutoModelForSequenceClassification": "sequence",
    "AutoModelForTokenClassification": "token",
}
BATCH, SOURCE, TARGET, LABELS = 3, 6, 5, 4


@dataclass
class Case:
    """One model class with one tiny configuration."""

    family: str
    auto_class: str
    name: str
    variant: dict

    @property
    def kind(self) -> str:
        return KINDS[self.auto_class]

    @property
    def has_head(self) -> bool:
        return self.auto_class != "AutoModel"

    @property
    def generates(self) -> bool:
        return self.has_head and self.kind in ("seq2seq", "causal")

    def config(self, **more):
        return load(self.family, FAMILIES[self.family][1])(
            **{**tiny_rnn.SIZES, "num_labels": LABELS, **self.variant, **more}
        )

    def model(self, seed: int = 0, **more) -> nn.Module:
        """Freshly initialised, in evaluation mode."""
        torch.manual_seed(seed)
        return load(self.family, self.name)(self.config(**more)).eval()

    def loud_model(self, std: float = 0.7, **more) -> nn.Module:
        return tiny_rnn.loud(self.model(**more), std)

    def batch(self, source_side: str | None = None, target_side: str | None = None, labels: bool = False) -> dict:
        """Sentences of different lengths; padded on a side or, with None, all of them whole."""
        config = self.config()
        shortest = {"shortest": SOURCE} if source_side is None else {}
        vocabulary = config.vocab_size if self.kind == "causal" else (config.source_vocab_size or config.vocab_size)
        ids, mask = tiny_rnn.ragged(BATCH, SOURCE, vocabulary, source_side or "right", **shortest)
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.kind == "seq2seq":
            shortest = {"shortest": TARGET} if target_side is None else {}
            side = target_side or "right"
            target, target_mask = tiny_rnn.ragged(BATCH, TARGET, config.vocab_size, side, seed=1, **shortest)
            batch |= {"decoder_input_ids": target, "decoder_attention_mask": target_mask}
        if labels and self.has_head:
            generator = torch.Generator().manual_seed(2)
            if self.kind == "sequence":
                batch["labels"] = torch.randint(LABELS, (BATCH,), generator=generator)
            elif self.kind == "token":
                labels = torch.randint(LABELS, (BATCH, SOURCE), generator=generator)
                batch["labels"] = labels.masked_fill(mask == 0, -100)
            elif self.kind == "causal":
                batch["labels"] = ids.masked_fill(mask == 0, -100)
            else:
                batch["labels"] = batch.pop("decoder_input_ids").masked_fill(target_mask == 0, -100)
                del batch["decoder_attention_mask"]
        return batch

    def loss(self, model: nn.Module, batch: dict) -> torch.Tensor:
        """The model's own loss or, of a model without a head, the squared distance to something fixed."""
        outputs = model(**batch)
        if "labels" in batch:
            return outputs.loss
        target = torch.linspace(-1, 1, outputs[0].numel()).view_as(outputs[0])
        return (outputs[0].float() - target).square().mean()


CASES = [
    pytest.param(Case(family, auto_class, name, variant), id=f"{name}-{variant_name}")
    for family in TINY
    for auto_class, name in load(family, FAMILIES[family][1]).auto_classes.items()
    for variant_name, variant in TINY[family][KINDS[auto_class]].items()
    if auto_class != "AutoModel" or variant_name in list(TINY[family]["seq2seq"])[1:4]
]
each = pytest.mark.parametrize("case", CASES)
each_encoder_decoder = pytest.mark.parametrize("case", [c for c in CASES if c.values[0].kind == "seq2seq"])
each_generator = pytest.mark.parametrize("case", [c for c in CASES if c.values[0].generates])


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
    last = {
        **{"seq2seq": (BATCH, TARGET, config.vocab_size), "causal": (BATCH, SOURCE, config.vocab_size)},
        **{"sequence": (BATCH, LABELS), "token": (BATCH, SOURCE, LABELS)},
    }[case.kind]
    if not case.has_head:
        last = (BATCH, TARGET, config.hidden_size)
        assert outputs.last_hidden_state.shape == last
    else:
        assert outputs.logits.shape == last
    if case.kind == "seq2seq":
        assert outputs.encoder_last_hidden_state.shape == (BATCH, SOURCE, config.encoder_hidden_size)
        assert [h.shape[:2] for h in outputs.encoder_hidden_states] == [(BATCH, SOURCE)] * (config.encoder_layers + 1)
        assert [h.shape[:2] for h in outputs.decoder_hidden_states] == [(BATCH, TARGET)] * (config.decoder_layers + 1)
    else:
        depth = config.decoder_layers if case.kind == "causal" else config.encoder_layers
        assert [h.shape[:2] for h in outputs.hidden_states] == [(BATCH, SOURCE)] * (depth + 1)


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


@each
def test_every_parameter_gets_a_gradient(case):
    model = case.loud_model().train()
    found = gradients(case, model, case.batch("right", "right", labels=True))
    assert [name for name, gradient in found.items() if not gradient.isfinite().all()] == []
    assert [name for name, gradient in found.items() if gradient.abs().max() == 0] == []


@pytest.mark.parametrize("side", ["left", "right"])
@each
def test_padding_changes_nothing(case, side):
    model, batch = case.loud_model(), case.batch(side, side)
    with torch.no_grad():
        together = model(**batch)[0]
        for row in range(BATCH):
            alone = {
                name: ids[row : row + 1, batch[mask][row].bool()]
                for name, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask"))
                if (ids := batch.get(name)) is not None
            }
            real = batch["decoder_attention_mask" if case.kind == "seq2seq" else "attention_mask"][row].bool()
            kept = together[row] if case.kind == "sequence" else together[row, real]
            assert_close(kept, model(**alone)[0][0])


@each
def test_what_stands_in_the_padding_is_not_read(case):
    model, batch = case.loud_model(), case.batch("left", "right")
    with torch.no_grad():
        before = model(**batch)[0]
        batch["input_ids"] = torch.where(batch["attention_mask"] == 0, 7, batch["input_ids"])
        after = model(**batch)[0]
    if case.kind in ("causal", "token"):
        real = batch["attention_mask"].bool()
        before, after = before[real], after[real]
    assert torch.equal(before, after)


@each_encoder_decoder
@pytest.mark.parametrize("side", ["left", "right"])
def test_attention_weights_sum_to_1_over_real_tokens_and_are_0_on_padding(case, side):
    batch = case.batch(side, "left")
    outputs = case.loud_model()(**batch, output_attentions=True)
    if case.config().attention_type == "none":
        assert outputs.cross_attentions is None
        return
    (weights,) = outputs.cross_attentions
    assert weights.shape == (BATCH, 1, TARGET, SOURCE)
    real = batch["decoder_attention_mask"].bool()  # (B, T)
    weights = weights[:, 0]
    assert_close(weights.sum(-1)[real], torch.ones(int(real.sum())))
    assert weights.masked_select(batch["attention_mask"][:, None] == 0).abs().max() == 0
    assert weights[real].std() > 0.01, "attention that looks at all alike shows nothing"


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


@each_generator
@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3}], ids=["greedy", "beam"])
def test_cached_generation_equals_uncached(case, options):
    model, batch = case.loud_model(std=1.5), case.batch("left", "left")
    # each token once: a model that says the same all the time could not show a difference
    options = {**options, "max_new_tokens": 8, "do_sample": False, "no_repeat_ngram_size": 1}
    cached, uncached = (model.generate(**batch, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached, uncached)
    assert cached[:, -8:].unique(dim=0).shape[0] > 1


@each
def test_steps_with_a_cache_equal_one_pass(case):
    if case.kind not in ("seq2seq", "causal"):
        assert "past_key_values" not in case.model()(**case.batch())
        return
    model, batch = case.loud_model(), case.batch("right")
    name = "decoder_input_ids" if case.kind == "seq2seq" else "input_ids"
    if case.kind == "causal":
        del batch["attention_mask"]
    ids, cache, parts = batch.pop(name), None, []
    batch.pop("decoder_attention_mask", None)
    with torch.no_grad():
        whole = model(**batch, **{name: ids})[0]
        for chunk in ids.split([2, 1, ids.shape[1] - 3], dim=1):
            outputs = model(**batch, **{name: chunk}, past_key_values=cache, use_cache=True)
            cache = outputs.past_key_values
            parts.append(outputs[0])
    assert cache.get_seq_length() == ids.shape[1]
    assert_close(torch.cat(parts, dim=1), whole)


@each
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_gradients_equal_plain_ones(case, use_reentrant):
    # Re-entrant checkpoints take the path without gradients first. It lays its results out in another order in memory,
    # and dropout draws its numbers in that order.
    model = case.loud_model(dropout=0.0 if use_reentrant else 0.1).train()
    batch = case.batch("right", "left", labels=True)
    torch.manual_seed(0)
    plain = gradients(case, model, batch)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    torch.manual_seed(0)
    assert_close(gradients(case, model, batch), plain)


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
        assert_close(again(**batch)[0], model(**batch)[0], 0)

    base, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "mismatched_keys"))
    with torch.no_grad():
        assert_close(base(**batch)[0], model.base_model(**batch)[0], 0)


@each
def test_built_on_the_meta_device_every_parameter_starts_as_documented(case):
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


@each_generator
def test_the_loss_of_a_new_model_is_that_of_guessing(case):
    model = case.model(vocab_size=500)
    generator = torch.Generator().manual_seed(0)
    batch = case.batch("right", "right", labels=True)
    batch["labels"] = torch.randint(3, 500, (BATCH, 40), generator=generator)
    if case.kind == "causal":
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
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        likeness = nn.functional.cosine_similarity(parameter.grad.flatten(), exact[name].flatten(), dim=0)
        assert likeness > 0.97, (name, likeness)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_weights_of_another_precision_work(case, dtype):
    batch = case.batch("left", "right", labels=True)
    exact, model = case.loud_model(std=0.3), case.loud_model(std=0.3).to(dtype)
    tolerance = 1e-5 if dtype == torch.float64 else 0.2
    with torch.no_grad():
        expected, found = exact(**batch), model(**batch)
    name = "logits" if case.has_head else "last_hidden_state"
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
    two = case.kind == "seq2seq" and config.source_vocab_size is not None
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
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            assert len(new) == (size - 3 if two and "encoder" not in name else size), name
            kept = min(len(old), len(new))
            assert torch.equal(new[:kept], old[:kept]), name
        else:
            assert torch.equal(new, old), name
    if case.generates and config.tie_word_embeddings:
        side = "encoder" if case.kind == "seq2seq" and config.share_encoder_decoder_embeddings else "decoder"
        head, table = model.lm_head, getattr(model.model, side).embed_tokens
        assert head.weight is table.weight
        assert head.out_features == table.num_embeddings == model.config.vocab_size
    if case.generates:
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
    if case.kind == "seq2seq" and case.config().source_vocab_size is not None:
        model.resize_decoder_token_embeddings(29)
    model.save_pretrained(tmp_path)
    again = getattr(transformers, case.auto_class).from_pretrained(tmp_path)
    assert_close(dict(again.state_dict()), dict(model.state_dict()), 0)
