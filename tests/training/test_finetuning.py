"""The fine-tuning recipe: each task through main, and what it refuses before training."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoConfig

from hf_genai.data.built_in import MAKERS, load_built_in
from hf_genai.training.finetuning_tasks import TASKS, answer_scores, macro_f1, rouge

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs" / "finetune_text"
recipe = importlib.import_module("recipes.finetune_text")
SMALL = ["--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
SMALL += ["--model.hidden_size", "32", "--vocab_size", "600", "--max_rows", "60", "--use_cpu", "true"]


def rows_of(task: str) -> list[dict]:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "a", "dog", "run", "over", "hills"]
    texts = [" ".join(words[(number * step) % 13] for step in range(1, 12)) + f" {number}" for number in range(60)]
    if task == "classification":
        return [{"text": text, "label": "cat" if "cat" in text else "dog"} for text in texts]
    if task == "tagging":
        return [
            {"tokens": t.split(), "tags": ["noun" if w in "cat mat dog" else "x" for w in t.split()]} for t in texts
        ]
    if task == "qa":
        return [
            {
                "question": "What is it?",
                "context": t,
                "answer": t.split()[3],
                "answer_start": len(" ".join(t.split()[:3])) + 1,
            }
            for t in texts
        ]
    if task == "summarisation":
        return [{"document": text, "summary": " ".join(text.split()[:3])} for text in texts]
    if task == "dialogue":
        return [
            {"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": t.split()[0]}]}
            for t in texts
        ]
    return [{"text": text} for text in texts]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return str(path)


def run(task: str, folder: Path, *more: str, rows: list[dict] | None = None) -> dict:
    folder.parent.mkdir(exist_ok=True)
    data = write(folder.parent / f"{task}.jsonl", rows or rows_of(task))
    shares = ["--validation_data", "0.2", "--test_data", "0.2"]
    config = str(CONFIGS / f"{task}.yaml")
    small = SMALL if "--model" not in more else [w for w in SMALL if w not in ("--model.hidden_size", "32")]
    return recipe.main([config, "--data", data, "--output_dir", str(folder), *shares, *small, *more])


@pytest.mark.parametrize("task", TASKS)
def test_each_task_ends_in_a_folder_with_scores_baselines_and_samples(task, tmp_path):
    results = run(task, tmp_path / "run")
    assert TASKS[task].main_metric in results["scores"]
    assert all(TASKS[task].main_metric in row for row in results["baselines"].values())
    assert results["samples"]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["scores"] == results["scores"]
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert "Baseline: " in card
    # the folders of this machine are nowhere; a card escapes underscores, so the whole path would prove nothing
    for name in ("README.md", "results.json"):
        assert tmp_path.parts[1] + "/" not in (tmp_path / "run" / name).read_text("utf-8"), name
    assert f"hf-genai train {task} --data {task}.jsonl" in card
    if task in ("classification", "tagging", "summarisation", "dialogue", "code"):
        assert "MODEL_ID" not in card and "Its output, on the saved model" in card
    config = AutoConfig.from_pretrained(tmp_path / "run")
    if task == "classification":
        assert config.id2label == {0: "cat", 1: "dog"}


def test_a_pretrained_model_keeps_its_body_and_gets_the_head_of_the_task(tmp_path):
    run("code", tmp_path / "code")
    results = run(
        *("classification", tmp_path / "run", "--model", "null", "--model_name_or_path", str(tmp_path / "code")),
    )
    assert results["model_type"] == "genai_gpt"


def test_a_scoring_that_fails_does_not_cost_the_trained_model_and_no_token_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(TASKS["classification"], "score", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("classification", tmp_path / "run")
    assert AutoConfig.from_pretrained(tmp_path / "run").model_type == "genai_bert"
    monkeypatch.undo()
    run("classification", tmp_path / "two", "--hub_token", "hf_secret")
    for path in (tmp_path / "two").iterdir():
        assert path.is_dir() or b"hf_secret" not in path.read_bytes(), path


def test_what_scoring_needs_is_asked_for_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    monkeypatch.setattr("transformers.Trainer.train", lambda *args, **kwargs: pytest.fail("it trained"))
    with pytest.raises(ImportError, match=r"pip install 'hf_genai\[eval\]'"):
        run("summarisation", tmp_path / "run")


def test_columns_of_other_names_are_mapped(tmp_path):
    rows = [{"review": row["text"], "stars": row["label"]} for row in rows_of("classification")]
    columns = ["--columns", "{text: review, label: stars}"]
    assert run("classification", tmp_path / "run", *columns, rows=rows)["rows"]["train"] > 20


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "poetry"], "invalid choice: 'poetry'"),
        (["--columns", "{body: review}"], "body is no column of classification, which has text, label"),
        (["--columns", "{text: review}"], "no column review; columns found"),
        (["--model", "null"], "not neither"),
        (["--test_data", "0"], "test: no row is left"),
        (["--learning_rat", "1"], "did you mean 'learning_rate'"),
        (["--model.model_type", "genai_brt"], "did you mean 'genai_bert'"),
    ],
)
def test_what_cannot_work_is_refused_before_training(more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run("classification", tmp_path / "run", *more)


@pytest.mark.parametrize("name", ["stdlib:calls", "stdlib:summaries", "cldr:languages"])
def test_built_in_rows_are_what_they_say(name):
    rows, provenance = load_built_in(name)
    assert len(rows) > 1000
    assert provenance.licence in ("PSF-2.0", "Unicode-3.0 (CLDR data)")
    if name == "stdlib:calls":
        for row in rows.select(range(200)):
            start = row["answer_start"]
            assert row["context"][start : start + len(row["answer"])] == row["answer"]


def test_every_task_has_built_in_rows():
    assert {task.built_in for task in TASKS.values()} <= set(MAKERS)


def test_scores_are_those_of_the_papers_definitions():
    assert answer_scores(["The Cat!", "a dog"], ["cat", "big dog"]) == {"exact_match": 0.5, "f1": pytest.approx(5 / 6)}
    assert macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1]), 3) == pytest.approx(2 / 3)
    assert macro_f1(np.array([[1, 0]]), np.array([[1, 1]]), 2) == pytest.approx(0.5)
    assert rouge(["the cat sat"], ["the cat"])["rouge1"] == pytest.approx(80)


def test_questions_about_one_text_stand_in_one_split(tmp_path):
    rows = [{**row, "question": f"{n}?"} for row in rows_of("qa") for n in range(2)]
    data = write(tmp_path / "qa.jsonl", rows)
    finetuning = importlib.import_module("hf_genai.training.finetuning")
    loaded = finetuning.load_rows(finetuning.TaskArguments(task="qa", data=[data]), seed=0)
    sets = [set(split["context"]) for split in (loaded.train, loaded.validation, loaded.test)]
    assert not sets[0] & sets[1] and not sets[0] & sets[2]
    assert isinstance(loaded.train, Dataset) and len(loaded.train) == 2 * len(sets[0])
