"""Whole graphs: torch.compile without a break, torch.export with sizes left open, traces, static caches."""

import pytest
import torch
from tiny_cases import cases
from tiny_families import batch_of, make


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# one layer traces twice as fast as two
SHALLOW = {"encoder_layers": 1, "decoder_layers": 1}


def shallow(family: str, layout: str, **options):
    return make(family, layout, **(SHALLOW if family == "T5" else {"num_hidden_layers": 1}), **options)


@pytest.mark.slow  # the static-cache test compiles the forward pass of GPT and T5, the next one BERT's
def test_the_compiled_model_is_one_graph_with_the_same_logits_and_gradients(family, layout):
    batch = batch_of(family)
    model, other = shallow(family, layout), shallow(family, layout)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)
    model.train(), other.train()
    losses = [each(**batch).loss for each in (model, compiled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-5)
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_a_compiled_encoder_is_one_graph():
    batch, model = batch_of("BERT"), shallow("BERT", "modern")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["GPT", "T5"])
def test_generation_with_a_static_cache_and_a_compiled_step_gives_the_same_tokens(family, layout):
    batch = batch_of(family)
    batch.pop("labels")
    model, options = shallow(family, layout), {"max_new_tokens": 8, "do_sample": False}
    expected = model.generate(**batch, **options)
    assert torch.equal(model.generate(**batch, **options, cache_implementation="static"), expected)
    model.forward = torch.compile(model.forward, fullgraph=True, backend="eager")
    assert torch.equal(model.generate(**batch, **options, cache_implementation="static"), expected)


@pytest.mark.parametrize("layout", ["modern", pytest.param("classic", marks=pytest.mark.slow)])
def test_the_exported_graph_takes_other_sizes(family, layout):
    batch = batch_of(family)
    batch.pop("labels")
    model = shallow(family, layout, use_cache=False)
    rows, length = torch.export.Dim("rows", max=64), torch.export.Dim("length", max=60)
    shapes = dict.fromkeys(batch, {0: rows, 1: length})
    if family == "T5":
        batch["decoder_input_ids"] = batch["input_ids"][:, :5].clamp(min=1)
        shapes["decoder_input_ids"] = {0: rows, 1: torch.export.Dim("target_length", max=60)}
    with torch.no_grad():
        graph = torch.export.export(model, (), batch, dynamic_shapes=shapes, strict=False).module()
        other = batch_of(family, length=11, rows=3)
        other.pop("labels")
        if family == "T5":
            other["decoder_input_ids"] = other["input_ids"][:, :4].clamp(min=1)
        for given in (batch, other):
            torch.testing.assert_close(graph(**given).logits, model(**given).logits, atol=1e-5, rtol=1e-5)


OF_SEVERAL_ROWS = [
    *("GenaiBertModel-modern", "GenaiBertForSequenceClassification-classic", "GenaiBertForMultipleChoice-classic"),
    *("GenaiRNNForSequenceClassification-gru, two layers", "GenaiRNNForTokenClassification-lstm, untied, one way"),
    *("GenaiRNNForCausalLM-gru, two layers", "GenaiRNNForConditionalGeneration-gru, additive fed, two layers"),
]


@pytest.mark.parametrize("name", OF_SEVERAL_ROWS)
def test_the_exported_graph_of_other_heads_takes_any_number_of_rows(name):
    case = dict(cases())[name]
    model, batch = case.model(), case.batch("right")
    if case.has_cache:
        model.config.use_cache = False
    rows = torch.export.Dim("rows", min=2, max=64)
    with torch.no_grad():
        shapes = {given: {0: rows} for given in batch}
        graph = torch.export.export(model, (), batch, dynamic_shapes=shapes, strict=False).module()
        for given in (batch, {name: values[:2] for name, values in batch.items()}):
            torch.testing.assert_close(graph(**given)[0], model(**given)[0], atol=1e-5, rtol=1e-5)


class Logits(torch.nn.Module):
    """A model whose arguments are tensors in order, as a tracer gives them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask, decoder_ids=None):
        target = {} if decoder_ids is None else {"decoder_input_ids": decoder_ids}
        return self.model(input_ids=ids, attention_mask=mask, **target).logits


def test_the_exporter_by_tracing_writes_a_graph_for_other_sizes(family, layout, tmp_path):
    import onnxruntime

    # of grouped heads without a mask, the exporter cannot write transformers' attention
    model = Logits(shallow(family, layout, use_cache=False, num_key_value_heads=4)).eval()
    names = ["ids", "mask", "decoder_ids"][: 3 if family == "T5" else 2]

    def given(**sizes) -> tuple:
        batch = batch_of(family, **sizes)
        return (batch["input_ids"], batch["attention_mask"], batch["input_ids"][:, :5].clamp(min=1))[: len(names)]

    path = tmp_path / "model.onnx"
    axes = {name: {0: "rows", 1: "length" if name != "decoder_ids" else "target_length"} for name in names}
    options = {"input_names": names, "dynamic_axes": axes, "opset_version": 17, "dynamo": False}
    torch.onnx.export(model, given(), path, **options)
    session = onnxruntime.InferenceSession(path)
    for inputs in (given(), given(length=11, rows=3)):
        written = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})[0]
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(written), model(*inputs), atol=1e-4, rtol=1e-4)
