from types import SimpleNamespace

import pytest
import torch
from tiny_seq2seq import TEXTS, make_model, make_tokenizer
from transformers.utils import logging

from hf_genai.evaluation.generation import encode_texts, generate_texts, inference, length_limit


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module", params=["rnn", "bart", "t5"])
def model(request):
    return make_model(request.param)


@pytest.fixture
def warnings(caplog):
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}])
def test_batches_of_any_size_answer_in_the_order_of_the_texts(model, tokenizer, search):
    alone = [generate_texts(model, tokenizer, [text], max_new_tokens=6, **search)[0] for text in TEXTS]
    assert len(set(alone)) > 1
    for batch_size in (1, 4, 32):
        assert generate_texts(model, tokenizer, TEXTS, batch_size=batch_size, max_new_tokens=6, **search) == alone


def test_texts_of_similar_length_share_a_batch(model, tokenizer, monkeypatch):
    shapes, generate = [], type(model).generate
    monkeypatch.setattr(
        type(model), "generate", lambda self, **kw: shapes.append(kw["input_ids"].shape[1]) or generate(self, **kw)
    )
    generate_texts(model, tokenizer, ["red " * n for n in (9, 1, 8, 2)], batch_size=2, max_new_tokens=2)
    assert shapes == [len(tokenizer("red " * n)["input_ids"]) for n in (9, 2)]


@pytest.mark.parametrize(
    ("tokens", "positions", "limit"),
    [(10, 7, 7), (7, 10, 7), (int(1e30), 7, 7), (10, None, 10), (int(1e30), None, None)],
)
def test_sources_are_as_long_as_the_tokenizer_and_the_model_both_take(tokens, positions, limit):
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=positions))
    assert length_limit(model, SimpleNamespace(model_max_length=tokens), None) == limit


def test_the_mode_of_the_model_comes_back_even_after_an_error(model, tokenizer):
    model.train()
    generate_texts(model, tokenizer, TEXTS[:1], max_new_tokens=2)
    assert model.training
    with pytest.raises(ValueError):
        generate_texts(model, tokenizer, TEXTS[:1], no_such_argument=1)
    assert model.training
    model.eval()
    generate_texts(model, tokenizer, TEXTS[:1], max_new_tokens=2)
    assert not model.training


def test_targets_are_decoded_by_their_own_tokenizer(model, tokenizer):
    target = make_tokenizer("char")
    (text,) = generate_texts(model, tokenizer, TEXTS[:1], target, max_new_tokens=5)
    ids = model.generate(**tokenizer(TEXTS[:1], return_tensors="pt", return_token_type_ids=False), max_new_tokens=5)
    assert (
        text == target.decode(ids[0], skip_special_tokens=True) != tokenizer.decode(ids[0], skip_special_tokens=True)
    )


def test_long_texts_are_cut_before_their_end_token_and_counted(tokenizer, warnings):
    rows = encode_texts(tokenizer, ["red", "the red house is very old", "a b c d e f"], 6)
    assert "Cut 2 of 3 texts to 6 tokens; the longest has" in warnings.text
    assert [len(row) for row in rows[1:]] == [6, 6] and {row[-1] for row in rows} == {2}
    warnings.clear()
    encode_texts(tokenizer, ["red"], 6)
    assert not warnings.records


def test_wrong_arguments_are_named(model, tokenizer):
    with pytest.raises(ValueError, match="at least one text"):
        generate_texts(model, tokenizer, [])
    with pytest.raises(TypeError, match="got the string 'red'"):
        generate_texts(model, tokenizer, "red")
    with pytest.raises(TypeError, match="got int at index 1"):
        generate_texts(model, tokenizer, ["red", 3])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        generate_texts(model, tokenizer, ["red"], batch_size=0)
    with pytest.raises(ValueError, match="max_source_length must be at least 1, got 0"):
        generate_texts(model, tokenizer, ["red"], max_source_length=0)
    with pytest.raises(ValueError, match="num_return_sequences must be 1 here, got 2"):
        generate_texts(model, tokenizer, ["red"], num_beams=2, num_return_sequences=2)


def test_inference_builds_no_graph():
    model = make_model("t5").train()
    with inference(model):
        assert not model.training and not torch.is_grad_enabled()
    assert model.training and torch.is_grad_enabled()


def test_a_blank_text_has_a_blank_output_and_the_others_keep_theirs(model, tokenizer, monkeypatch):
    wanted = generate_texts(model, tokenizer, TEXTS[:2], max_new_tokens=6)
    texts = ["", TEXTS[0], " \t", TEXTS[1], "\u3000"]
    assert generate_texts(model, tokenizer, texts, max_new_tokens=6) == ["", wanted[0], "", wanted[1], ""]
    monkeypatch.setattr(type(model), "generate", None)
    assert generate_texts(model, tokenizer, ["", " "]) == ["", ""]
