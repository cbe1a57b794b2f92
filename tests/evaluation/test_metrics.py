import math

import evaluate
import pytest
import torch
from tiny_seq2seq import TEXTS, make_model, make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from hf_genai.evaluation.metrics import (
    F1,
    Accuracy,
    Bleu,
    ChrF,
    ExactMatch,
    Perplexity,
    baseline_scores,
    model_perplexity,
    most_frequent_target,
    perplexity,
    translation_scores,
)

PREDICTIONS = ["the cat sat on the mat today", "a dog ran over the hill"]
REFERENCES = ["the cat sat on the mat", "a dog ran over the hill"]


@pytest.fixture(autouse=True)
def no_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "untouched"))
    yield
    assert not (tmp_path / "untouched").exists()


def test_bleu_and_chrf_equal_sacrebleu_and_carry_its_signature():
    import sacrebleu

    bleu = Bleu().compute(predictions=PREDICTIONS, references=REFERENCES)
    assert bleu["bleu"] == sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES]).score
    assert 50 < bleu["bleu"] < 100
    assert "tok:13a" in bleu["bleu_signature"] and f"version:{sacrebleu.__version__}" in bleu["bleu_signature"]
    assert (bleu["bleu_prediction_length"], bleu["bleu_reference_length"]) == (13, 12)
    chrf = ChrF().compute(predictions=PREDICTIONS, references=REFERENCES)
    assert chrf["chrf"] == sacrebleu.corpus_chrf(PREDICTIONS, [REFERENCES]).score
    assert "nw:0" in chrf["chrf_signature"]
    assert "nw:2" in ChrF().compute(predictions=PREDICTIONS, references=REFERENCES, word_order=2)["chrf_signature"]


def test_several_references_may_differ_in_number():
    result = Bleu().compute(predictions=PREDICTIONS, references=[["no", PREDICTIONS[0]], [REFERENCES[1]]])
    assert result["bleu"] == pytest.approx(100)
    with pytest.raises(ValueError, match="at least one, none at index 1"):
        Bleu().compute(predictions=PREDICTIONS, references=[["a"], []])


def test_the_tokenizer_of_bleu_can_be_chosen_for_languages_without_spaces():
    columns = {"predictions": ["我喜欢大红房子吗"], "references": ["我喜欢大红房子啊"]}
    assert Bleu().compute(**columns)["bleu"] < 1
    assert Bleu().compute(**columns, tokenize="zh")["bleu"] > 60


def test_exact_match_is_a_share_and_ignores_outer_space_alone():
    metric = ExactMatch()
    columns = {"predictions": ["a ", "b c", "D"], "references": ["a", "b  c", "d"]}
    assert metric.compute(**columns) == {"exact_match": 1 / 3}
    assert metric.compute(**columns, ignore_case=True) == {"exact_match": 2 / 3}
    assert metric.compute(predictions=["a", "b"], references=[["x", "a"], ["c"]]) == {"exact_match": 0.5}


@pytest.mark.parametrize("metric", [Bleu, ChrF, ExactMatch])
def test_batches_give_the_score_of_the_whole(metric):
    whole = metric().compute(predictions=PREDICTIONS, references=REFERENCES)
    batched = metric()
    batched.add_batch(predictions=[], references=[])
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        batched.add_batch(predictions=[prediction], references=[reference])
    assert batched.compute() == whole
    batched.add(prediction=PREDICTIONS[0], reference=REFERENCES[0])
    assert batched.compute(predictions=PREDICTIONS[1:], references=REFERENCES[1:]) == whole


def test_metrics_combine():
    combined = evaluate.combine([Bleu(), ChrF(), ExactMatch()])
    combined.add_batch(predictions=PREDICTIONS[:1], references=REFERENCES[:1])
    combined.add_batch(predictions=PREDICTIONS[1:], references=REFERENCES[1:])
    scores = translation_scores(PREDICTIONS, REFERENCES)
    assert scores.pop("num_examples") == 2
    assert scores.items() <= combined.compute().items()
    labels = {"predictions": [0, 1], "references": [1, 1]}
    assert evaluate.combine([Accuracy(), F1()]).compute(**labels) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3)}


def test_accuracy_and_f1_take_numbers_and_names():
    columns = {"predictions": [0, 0, 1, 2, 2, 2], "references": [0, 1, 1, 2, 2, 0]}
    assert Accuracy().compute(**columns) == {"accuracy": pytest.approx(4 / 6)}
    by_label = [0.5, 2 / 3, 0.8]
    assert F1().compute(**columns, average=None)["f1"] == pytest.approx(by_label)
    assert F1().compute(**columns, average="macro")["f1"] == pytest.approx(sum(by_label) / 3)
    assert F1().compute(**columns, average="micro")["f1"] == pytest.approx(4 / 6)
    assert F1().compute(**columns, average="weighted")["f1"] == pytest.approx(sum(by_label) / 3)  # two of each
    names = {key: ["abc"[label] for label in column] for key, column in columns.items()}
    assert Accuracy().compute(**names)["accuracy"] == pytest.approx(4 / 6)
    assert F1().compute(**names, average="macro")["f1"] == pytest.approx(sum(by_label) / 3)
    assert F1().compute(predictions=[1, 1, 0], references=[1, 0, 1]) == {"f1": 0.5}


def test_perplexity_comes_from_sums_so_that_long_batches_weigh_more():
    metric = Perplexity()
    metric.add_batch(nats=[2.0], num_tokens=[1])
    metric.add_batch(nats=[8.0], num_tokens=[9])
    assert metric.compute() == {"perplexity": pytest.approx(math.e), "nats_per_token": 1.0, "num_tokens": 10}
    assert perplexity(1e6, 1)["perplexity"] == math.inf
    with pytest.raises(ValueError, match="num_tokens must be at least 1, got 0"):
        perplexity(0.0, 0)


def test_perplexity_of_an_encoder_decoder_equals_its_loss_text_by_text():
    tokenizer, model = make_tokenizer(), make_model("bart").train()
    sources, targets = TEXTS[:3], ["red", "it is old", "la maison vieille"]
    result = model_perplexity(model, tokenizer, sources, targets, batch_size=2)
    assert model.training
    model.eval()
    nats, count = 0.0, 0
    for source, target in zip(sources, targets, strict=True):
        labels = tokenizer(target, return_tensors="pt")["input_ids"]
        loss = model(tokenizer(source, return_tensors="pt")["input_ids"], labels=labels).loss
        nats, count = nats + loss.item() * labels.numel(), count + labels.numel()
    assert result["num_tokens"] == count
    assert result["nats_per_token"] == pytest.approx(nats / count, rel=1e-4)
    with pytest.raises(ValueError, match="needs targets"):
        model_perplexity(model, tokenizer, sources)
    with pytest.raises(ValueError, match="as many as texts"):
        model_perplexity(model, tokenizer, sources, targets[:1])


def test_perplexity_of_a_causal_model_equals_its_loss_text_by_text():
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=380, n_embd=16, n_layer=1, n_head=2, n_positions=64)).eval()
    result = model_perplexity(model, tokenizer, TEXTS, batch_size=4)
    nats, count = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        tokens = ids.numel() - 1
        nats, count = nats + model(ids, labels=ids).loss.item() * tokens, count + tokens
    assert result["num_tokens"] == count
    assert result["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-4)


@pytest.mark.parametrize("metric", [Bleu, ChrF, ExactMatch, Accuracy, F1])
def test_empty_unequal_and_missing_columns_are_refused_and_leave_the_metric_usable(metric):
    one = metric()
    with pytest.raises(ValueError, match="nothing to score"):
        one.compute(predictions=[], references=[])
    with pytest.raises(ValueError, match="nothing to score"):
        one.compute()
    with pytest.raises(ValueError, match="equal length, got 2 predictions, 1 references"):
        one.compute(predictions=["1", "2"], references=["1"])
    with pytest.raises(ValueError, match="needs references, got None"):
        one.add_batch(predictions=["1"])
    with pytest.raises(ValueError, match="must be a list"):
        one.add_batch(predictions="1", references="1")
    labels = {"predictions": [1], "references": [1]} if metric is F1 else {"predictions": ["1"], "references": ["1"]}
    assert one.compute(**labels)


def test_translation_scores_refuses_nothing_and_unequal_lengths():
    with pytest.raises(ValueError, match="nothing to score"):
        translation_scores([], [])
    with pytest.raises(ValueError, match="1 predictions, 2 references"):
        translation_scores(["a"], ["a", "b"])


def test_baselines_copy_the_source_or_repeat_the_commonest_target():
    assert most_frequent_target(["x", "y", "z", "y", "z"], 3) == ["y", "y", "y"]
    with pytest.raises(ValueError, match="training_targets"):
        most_frequent_target([], 2)
    scores = baseline_scores(["one", "two"], ["one", "deux"], ["deux", "deux", "un"])
    assert scores["copy_source"]["exact_match"] == 0.5
    assert scores["most_frequent_target"]["exact_match"] == 0.5
