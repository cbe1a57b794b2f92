"""The fine-tuning recipe: each task through main, and what it refuses before training."""

import ast
import importlib
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    T5Config,
)

import hf_genai
from hf_genai import conversion
from hf_genai.data import train_tokenizer
from hf_genai.data.built_in import MAKERS, load_built_in
from hf_genai.evaluation.task_scores import answer_scores, macro_f1, rouge
from hf_genai.objectives.dialogue import as_messages
from hf_genai.training.checkpoints import sole_run
from hf_genai.training.finetuning import load_rows, parse_finetune_arguments
from hf_genai.training.finetuning_tasks import TASKS

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs" / "finetune_text"
recipe = importlib.import_module("recipes.finetune_text")
SMALL = ["--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
LAYERS = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
LAYERS |= {"vocab_size": 600, "pad_token_id": 0}
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
    assert "MODEL_ID" not in card and "Its output, on the saved model" in card
    assert 'model_id = "run"' in card  # the line that `push` gives the name on the Hub
    config = AutoConfig.from_pretrained(tmp_path / "run")
    if task == "tagging":  # words come back whole, and not in pieces
        known = {word for row in rows_of(task) for word in row["tokens"]}
        shown = ast.literal_eval(card.split("Its output")[1].split("```text\n")[1].split("```")[0])
        assert {word for word, _ in shown} <= known
    if task == "classification":
        assert config.id2label == {0: "cat", 1: "dog"}


def questions(path: Path) -> list[dict]:
    """Return the rows that the recipe makes of a file of questions, in the order of the contexts."""
    options = ["--task", "qa", "--data", str(path), "--validation_data", "0.3", "--test_data", "0.3"]
    arguments = parse_finetune_arguments([*options, "--model", "{model_type: genai_bert}", "--output_dir", "unused"])
    loaded = load_rows(arguments.data, seed=0)
    found = [row for split in (loaded.train, loaded.validation, loaded.test) for row in split]
    return sorted(found, key=lambda row: row["context"])


ANSWERED = [(f"where {number}?", f"dogs at p{number}", f"p{number}" if number % 3 else "") for number in range(30)]


@pytest.mark.parametrize("form", [dict, list])
def test_questions_may_have_the_form_of_squad(form, tmp_path):
    rows = []
    for asked, context, answer in ANSWERED:
        answers = {"text": [answer, "at"], "answer_start": [8, 5]} if answer else {"text": [], "answer_start": []}
        if form is list:
            answers = [dict(zip(answers, pair, strict=True)) for pair in zip(*answers.values(), strict=True)]
        rows.append({"id": asked, "context": context, "question": asked, "answers": answers})
    (tmp_path / "squad.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    found = questions(tmp_path / "squad.jsonl")
    assert {(row["question"], row["context"], row["answer"]) for row in found} == set(ANSWERED)
    for row in found:
        assert row["context"][row["answer_start"] :][: len(row["answer"])] == row["answer"]
        assert row["reference_answers"] == ([row["answer"], "at"] if row["answer"] else [""])


@pytest.mark.parametrize("nothing", [("", 0), ("", -1), (None, None), ("", None)])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_question_without_an_answer_is_written_in_several_ways_and_read_in_one(nothing, kind, tmp_path):
    names = ("question", "context", "answer", "answer_start")
    rows = [(asked, context, *((answer, 8) if answer else nothing)) for asked, context, answer in ANSWERED]
    table = Dataset.from_list([dict(zip(names, row, strict=True)) for row in rows])
    path = tmp_path / f"rows.{kind}"
    {"jsonl": table.to_json, "csv": table.to_csv, "parquet": table.to_parquet}[kind](str(path))
    expected = [(asked, context, answer, 8 if answer else 0) for asked, context, answer in ANSWERED]
    assert {tuple(row[name] for name in names) for row in questions(path)} == set(expected)


def test_a_place_without_an_answer_is_refused(tmp_path):
    rows = [dict(zip(("question", "context", "answer"), row, strict=True), answer_start=8) for row in ANSWERED]
    with pytest.raises(ValueError, match=r"rows\.jsonl, line \d+: no answer, but answer_start 8"):
        questions(Path(write(tmp_path / "rows.jsonl", rows)))


def answerable(number: int) -> dict:
    town = ["Rome", "Oslo", "Bonn", "Lima"][number % 4]
    context = f"Anna lives in {town}, and likes tea {number}."
    if number % 2:
        return {"question": "What is the price of gold?", "context": context, "answer": "", "answer_start": 0}
    asked = "Where does Anna live?"
    return {"question": asked, "context": context, "answer": town, "answer_start": context.index(town)}


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    """A run on questions of which every second has no answer: its folder, its results and its test rows."""
    folder = tmp_path_factory.mktemp("answering")
    write(folder / "test.jsonl", test := [answerable(number) for number in range(200, 224)])
    options = ["--test_data", str(folder / "test.jsonl"), "--learning_rate", "3e-3", "--max_steps", "150"]
    results = run("qa", folder / "run", *options, "--max_rows", "96", rows=[answerable(n) for n in range(160)])
    return folder / "run", results, test


def test_questions_without_an_answer_are_learned_and_scored_as_in_squad_2(answering):
    folder, results, _ = answering
    scores = results["scores"]
    kinds = ("HasAns_exact_match", "HasAns_f1", "NoAns_exact_match", "NoAns_f1")
    assert scores["exact_match"] > 0.9 and all(scores[kind] > 0.8 for kind in kinds)
    assert results["baselines"]["no answer to any question"]["NoAns_f1"] == 1
    assert results["baselines"]["no answer to any question"]["exact_match"] == 0.5
    card = (folder / "README.md").read_text("utf-8")
    assert "HasAns" in card and "NoAns" in card


def test_the_pipeline_of_a_saved_model_gives_the_answers_that_were_scored(answering):
    folder, results, test = answering
    found = hf_genai.pipeline("question-answering", model=str(folder))(
        [{name: row[name] for name in ("question", "context")} for row in test]
    )
    right = sum(own["answer"] == row["answer"] for own, row in zip(found, test, strict=True))
    assert right / len(test) == pytest.approx(results["scores"]["exact_match"], abs=1e-4)
    assert [own["answer"] for own in found[:5]] == [sample[2] for sample in results["samples"]]


def test_the_settings_that_were_scored_stand_in_the_config_for_the_pipeline(answering):
    settings = AutoConfig.from_pretrained(answering[0]).task_specific_params["question-answering"]
    assert settings["handle_impossible_answer"] is True
    assert settings["max_seq_len"] == 192 and settings["doc_stride"] == 48
    pipe = hf_genai.pipeline("question-answering", model=str(answering[0]), null_score_diff_threshold=1e9)
    asked = {"question": "What is the price of gold?", "context": "Anna lives in Rome, and likes tea 1."}
    assert pipe(asked)["answer"] and not pipe(asked, null_score_diff_threshold=-1e9)["answer"]


def test_an_answer_is_scored_by_the_nearest_reference_and_places_may_come_from_a_table(tmp_path):
    rows = "".join(f"where {number}?,dogs at p{number},p{number},8\n" for number in range(30))
    (tmp_path / "rows.csv").write_text(f"question,context,answer,answer_start\n{rows}")
    arguments = [
        "--task",
        "qa",
        "--data",
        str(tmp_path / "rows.csv"),
        "--validation_data",
        "0.3",
        "--test_data",
        "0.3",
    ]
    parsed = parse_finetune_arguments([*arguments, "--model", "{model_type: genai_bert}", "--output_dir", "unused"])
    test = load_rows(parsed.data, seed=0).test
    assert test["answer_start"][0] == 8
    task = TASKS["qa"](parsed, None)
    assert task.baselines(test, test)["first sentence of the text"]["exact_match"] == 0
    several = test.add_column("reference_answers", [[row["answer"], row["context"]] for row in test])
    assert task.baselines(several, several)["first sentence of the text"] == {"exact_match": 1, "f1": 1}
    (tmp_path / "rows.csv").write_text(f"question,context,answer,answer_start\n{rows.replace(',8', ',8th')}")
    with pytest.raises(ValueError, match="column answer_start: .*8th"):
        load_rows(parsed.data, seed=0)


# what transformers' own classes save: the tokenizer's words fit, and one model has no padding token
FOREIGN = {
    "classification": BertConfig(**LAYERS, max_position_embeddings=128),
    "qa": BertConfig(**LAYERS, max_position_embeddings=256),
    "tagging": DistilBertConfig(
        **{"n_layers": 1, "dim": 16, "n_heads": 2, "hidden_dim": 24, "vocab_size": 600, "max_position_embeddings": 128}
    ),
    "dialogue": GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=128, vocab_size=600, eos_token_id=2),
    "summarisation": T5Config(
        **{"num_layers": 1, "num_heads": 2, "d_model": 16, "d_kv": 8, "d_ff": 16, "vocab_size": 600},
        **{"decoder_start_token_id": 0},
    ),
}


@pytest.mark.parametrize("task", FOREIGN)
def test_weights_of_transformers_become_ours_and_are_fine_tuned(task, tmp_path):
    config = FOREIGN[task]
    torch.manual_seed(0)
    body = AutoModel.from_config(config)
    body.save_pretrained(tmp_path / "theirs")
    tokenizer = train_tokenizer(["the cat sat on a mat and saw a dog run over hills 0123456789"] * 3, vocab_size=500)
    if config.model_type == "gpt2":
        tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "theirs")
    theirs = ("--model", "null", "--model_name_or_path", str(tmp_path / "theirs"), "--learning_rate", "1e-9")
    results = run(task, tmp_path / "run", *theirs)
    assert results["model_type"] == f"genai_{config.model_type.removesuffix('2').removeprefix('distil')}"
    trained = dict(AutoModel.from_pretrained(tmp_path / "run").named_parameters())
    start = dict(hf_genai.from_transformers(body).named_parameters())
    shared = {name for name in set(trained) & set(start) if "pooler" not in name}  # which not every head has
    assert len(shared) > 8
    assert all(torch.allclose(trained[name], start[name], atol=1e-5) for name in shared)  # not drawn anew
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert "theirs, fine-tuned" in card and "base_model" not in card  # a folder is no name on the Hub


@pytest.mark.parametrize(
    ("task", "model_type"), [("classification", "genai_t5"), ("tagging", "genai_gpt"), ("qa", "genai_t5")]
)
def test_causal_models_and_encoder_decoders_learn_labels_tags_and_answers(task, model_type, tmp_path):
    model = ["--model", f"{{model_type: {model_type}, hidden_size: 16, num_attention_heads: 2}}"]
    results = run(task, tmp_path / "run", *model, "--per_device_eval_batch_size", "5")
    assert results["model_type"] == model_type
    assert 0 <= results["scores"][TASKS[task].main_metric] <= 1


def test_how_summaries_are_generated_is_an_option_and_saved_with_the_model(tmp_path):
    run("summarisation", tmp_path / "run", "--generation.num_beams", "2", "--max_target_length", "9")
    saved = json.loads((tmp_path / "run" / "generation_config.json").read_text())
    assert (saved["num_beams"], saved["max_new_tokens"]) == (2, 9)


@pytest.mark.parametrize("model", [{"model_type": "genai_t5", "hidden_size": 16}, {"model_type": "t5", "d_model": 16}])
def test_smoothed_labels_are_learned_from_the_summary_before_them(model, tmp_path, monkeypatch):
    seen = []
    compute_loss = recipe.GenaiTrainer.compute_loss
    monkeypatch.setattr(
        recipe.GenaiTrainer,
        "compute_loss",
        lambda self, *a, **k: seen.append(dict(a[1])) or compute_loss(self, *a, **k),
    )
    results = run("summarisation", tmp_path / "run", "--model", str(model), "--label_smoothing_factor", "0.1")
    assert results["train_steps"] == 2
    for batch in seen[:2]:
        assert batch["input_ids"].shape[1] > batch["decoder_input_ids"].shape[1]
        before, labels = batch["decoder_input_ids"][:, 1:], batch["labels"][:, :-1]
        assert (before == labels)[labels != -100].all()


@pytest.mark.parametrize("task", ["classification", "tagging", "qa"])
def test_how_training_makes_its_batches_changes_no_score(task, tmp_path):
    options = ["--learning_rate", "0", "--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "5"]
    plain = run(task, tmp_path / "plain", *options)
    other = run(
        *(task, tmp_path / "other", *options, "--dataloader_drop_last", "true"),
        *("--train_sampling_strategy", "group_by_length"),
    )
    assert plain["rows"]["test"] % 5
    assert (other["scores"], other["samples"]) == (plain["scores"], plain["samples"])


def test_taggers_of_entities_are_scored_by_entities_and_so_are_their_baselines(tmp_path, monkeypatch):
    rows = [
        {"tokens": row["tokens"], "tags": ["B-ANIMAL" if w in ("cat", "dog") else "O" for w in row["tokens"]]}
        for row in rows_of("tagging")
    ]
    results = run("tagging", tmp_path / "run", "--learning_rate", "0.02", "--max_steps", "40", rows=rows)
    assert results["scores"]["entity_f1"] > 0.9
    assert results["baselines"]["most frequent tag"]["entity_f1"] == 0
    assert results["baselines"]["most frequent tag of each word"]["entity_f1"] == 1
    assert "Entity F1" in (tmp_path / "run" / "README.md").read_text("utf-8")

    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    monkeypatch.setattr("transformers.Trainer.train", lambda *args, **kwargs: pytest.fail("it trained"))
    with pytest.raises(ImportError, match=r"seqeval: pip install 'hf_genai\[eval\]'"):
        run("tagging", tmp_path / "without", rows=rows)


def test_dialogues_of_plain_turns_are_scored_in_training_and_end_with_the_best_state(tmp_path):
    """The Trainer takes all arguments of a causal model with "label" in their names for labels, and has no loss."""
    rows = [{"turns": [row["messages"][0]["content"], "yes", "why?"]} for row in rows_of("dialogue")]
    every = ("--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1")
    every += ("--load_best_model_at_end", "true", "--columns", "{messages: turns}")
    results = run("dialogue", tmp_path / "run", *every, rows=rows)
    assert results["samples"][0][1] == "yes"
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text("utf-8"))
    losses = [row["eval_loss"] for row in state["log_history"] if "eval_loss" in row]
    assert len(losses) == 2 and state["best_metric"] == pytest.approx(min(losses))


def test_dialogues_of_sharegpt_are_read_under_its_own_names_and_under_given_ones(tmp_path):
    turns = [[{"from": "human", "value": f"Is it {n}?"}, {"from": "gpt", "value": "yes"}] for n in range(60)]
    for column, more in (("conversations", []), ("conversations", ["--columns", "{messages: conversations}"])):
        path = write(tmp_path / "rows.jsonl", [{"id": n, column: own} for n, own in enumerate(turns)])
        options = ["--task", "dialogue", "--data", path, "--model.model_type", "genai_gpt", "--output_dir", "x", *more]
        data = load_rows(parse_finetune_arguments(options).data, 0)
        assert sum(len(getattr(data, split)) for split in ("train", "validation", "test")) == 60
        assert as_messages(data.train["messages"][0])[1] == {"role": "assistant", "content": "yes"}


def test_a_pretrained_model_keeps_its_body_and_gets_the_head_of_the_task(tmp_path):
    run("code", tmp_path / "code")
    results = run(
        *("classification", tmp_path / "run", "--model", "null", "--model_name_or_path", str(tmp_path / "code")),
    )
    assert results["model_type"] == "genai_gpt"
    # code goes on after a prompt; what is classified is read to its end
    ends = [AutoTokenizer.from_pretrained(tmp_path / made)("a")["input_ids"][-1] == 2 for made in ("code", "run")]
    assert ends == [False, True]
    rows = [{**row, "label": number % 3} for number, row in enumerate(rows_of("classification"))]
    run(  # a classifier learns other classes
        *("classification", tmp_path / "more", "--model", "null", "--model_name_or_path", str(tmp_path / "run")),
        rows=rows,
    )
    assert AutoConfig.from_pretrained(tmp_path / "more").num_labels == 3


def test_a_scoring_that_fails_does_not_cost_the_trained_model_and_no_token_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(TASKS["classification"], "score", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("classification", tmp_path / "run")
    assert AutoConfig.from_pretrained(tmp_path / "run").model_type == "genai_rnn"
    monkeypatch.undo()
    run("classification", tmp_path / "two", "--hub_token", "hf_secret", "--save_strategy", "epoch")
    files = [path for path in (tmp_path / "two").rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    for path in files:
        assert b"hf_secret" not in path.read_bytes(), path
    assert not list((tmp_path / "two").glob(".*"))


def test_a_folder_that_another_run_uses_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "load_rows", lambda *args: pytest.fail("it went on"))
    with (
        sole_run(tmp_path / "run"),
        pytest.raises(ValueError, match=f"in use by the run of process {os.getpid()} on "),
    ):
        run("classification", tmp_path / "run")


def test_the_example_of_a_dialogue_on_the_card_asks_something():
    system, user, assistant = ({"role": role, "content": role} for role in ("system", "user", "assistant"))
    texts = Dataset.from_dict({"messages": [[], [assistant], [system, user, assistant]]})
    assert TASKS["dialogue"](None, None).example(texts) == {"messages": [system, user]}


def test_what_scoring_needs_is_asked_for_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    monkeypatch.setattr("transformers.Trainer.train", lambda *args, **kwargs: pytest.fail("it trained"))
    with pytest.raises(ImportError, match=r"pip install 'hf_genai\[eval\]'"):
        run("summarisation", tmp_path / "run")


# what the published weights of small and base configs are, beside their class's defaults
PUBLISHED = {
    "distilbert/distilbert-base-uncased": DistilBertConfig(),
    "distilbert/distilbert-base-cased": DistilBertConfig(vocab_size=28996),
    "distilbert/distilgpt2": GPT2Config(n_layer=6),
    "google-t5/t5-small": T5Config(),
    "google-bert/bert-base-uncased": BertConfig(),
    "google-bert/bert-base-cased": BertConfig(vocab_size=28996),
    "openai-community/gpt2": GPT2Config(),
    "google-t5/t5-base": T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12),
    "HuggingFaceTB/SmolLM-135M": LlamaConfig(
        **{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
        **{"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    ),
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_that_comes_with_the_recipe_has_a_model_that_its_texts_fit(path, tmp_path):
    finetuning = importlib.import_module("hf_genai.training.finetuning")
    arguments = finetuning.parse_finetune_arguments([str(path), "--output_dir", str(tmp_path), "--use_cpu", "true"])
    task, _, size = path.stem.partition("_")
    assert task == arguments.data.task
    assert {f"{task}_{other}" for other in ("small", "base")} <= {other.stem for other in CONFIGS.glob("*")}
    name = arguments.model.model_name_or_path
    assert (name is None) == (size == "")
    if name is None:
        return
    with torch.device("meta"):
        theirs = getattr(transformers, TASKS[task].auto_class).from_config(PUBLISHED[name])
        layout = conversion.layout_of(theirs.config)
        fields = conversion.read_config(layout, conversion.their_head(layout, type(theirs).__name__), theirs)
    count, stated = theirs.num_parameters() / 1e6, re.search(r"\((\d+) M parameters", path.read_text("utf-8"))
    assert int(stated[1]) == pytest.approx(count, rel=0.02)
    tokenizer = SimpleNamespace(get_vocab=lambda: {"a": 1}, pad_token_id=0)
    finetuning.check_fit(SimpleNamespace(config=SimpleNamespace(**fields)), tokenizer, arguments.data)


def test_columns_of_other_names_are_mapped(tmp_path):
    rows = [{"review": row["text"], "stars": row["label"]} for row in rows_of("classification")]
    columns = ["--columns", "{text: review, label: stars}"]
    others = write(tmp_path / "others.jsonl", [{**row, "review": f"also {row['review']}"} for row in rows[:9]])
    results = run("classification", tmp_path / "run", *columns, "--test_data", others, rows=rows)
    assert results["rows"]["train"] > 20 and results["rows"]["test"] == 9
    assert "9 held-out rows of others.jsonl" in (tmp_path / "run" / "README.md").read_text("utf-8")


def test_classes_may_be_numbers_and_are_called_what_the_data_set_calls_them(tmp_path):
    rows = rows_of("tagging")
    numbers = [[int(tag == "noun") for tag in row["tags"]] for row in rows]
    plain = [{**row, "tags": own} for row, own in zip(rows, numbers, strict=True)]
    results = run("tagging", tmp_path / "plain", rows=plain)
    assert AutoConfig.from_pretrained(tmp_path / "plain").id2label == {0: "0", 1: "1"}
    assert results["baselines"]["most frequent tag of each word"]["accuracy"] > 0.9

    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["x", "noun"]))})
    Dataset.from_list(plain).cast(features).to_parquet(tmp_path / "named.parquet")
    results = run("tagging", tmp_path / "named", "--data", str(tmp_path / "named.parquet"))
    assert AutoConfig.from_pretrained(tmp_path / "named").id2label == {0: "noun", 1: "x"}
    assert set(results["samples"][0][1].split()) == {"x", "noun"}

    (tmp_path / "labels.csv").write_text(
        "text,label\n" + "".join(f"{row['text']},{n % 11:03}\n" for n, row in enumerate(rows_of("code")))
    )
    run("classification", tmp_path / "written", "--data", str(tmp_path / "labels.csv"))
    assert AutoConfig.from_pretrained(tmp_path / "written").id2label == {
        number: f"{number:03}" for number in range(11)
    }

    swapped = [{"text": row["text"], "label": [1, 2] if n % 2 else [2, 1]} for n, row in enumerate(rows_of("code"))]
    results = run("classification", tmp_path / "swapped", rows=swapped)
    assert results["baselines"]["most frequent label"]["accuracy"] == 1
    with pytest.raises(ValueError, match="label_smoothing_factor must be 0 for rows of several labels, not 0.1"):
        run("classification", tmp_path / "smooth", "--label_smoothing_factor", "0.1", rows=swapped)
    several = [{"text": row["text"], "label": list(range(n % 12))} for n, row in enumerate(rows_of("code"))]
    run("classification", tmp_path / "several", "--test_data", "0.1", "--validation_data", "0.1", rows=several)
    assert AutoConfig.from_pretrained(tmp_path / "several").id2label == {number: str(number) for number in range(11)}
    assert "top_k=None) if row['score'] > 0.5" in (tmp_path / "several" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "poetry"], "invalid choice: 'poetry'"),
        (["--columns", "{body: review}"], "body is no column of classification, which has text, label"),
        (["--columns", "{text: [review]}"], "columns: each must be the name of a column of its own, not .'review'."),
        (["--columns", "{text: review, label: review}"], "each must be the name of a column of its own, not 'review'"),
        (["--columns", "{text: review}"], "no column review; columns found"),
        (["--model", "null"], "not neither"),
        (["--test_data", "0"], "test: no row is left .* give --test_data a larger share"),
        (["--max_length", "0"], "max_length must be at least 2, not 0"),
        (["--num_train_epochs", "-1"], "num_train_epochs must be a number of at least 0, not -1"),
        (["--learning_rate", "inf"], "learning_rate must be a number of at least 0, not inf"),
        (["--max_steps", "0"], "max_steps must be at least 1, or -1 for num_train_epochs, not 0"),
        (["--columns", "{text: '"], "columns: expected a mapping"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size must be at least 1, not 0"),
        (
            ["--generation.num_beams", "2"],
            "nothing is generated in classification, but in summarisation, dialogue, code",
        ),
        (["--metric_for_best_model", "accuracy"], "metric_for_best_model must be one of loss, .* not 'accuracy'"),
        (["--prediction_loss_only", "true"], "prediction_loss_only must be false"),
        (["--task", "qa", "--label_smoothing_factor", "0.1"], "label_smoothing_factor must be 0 for qa, not 0.1"),
        (["--learning_rat", "1"], "did you mean 'learning_rate'"),
        (["--model.model_type", "genai_brt"], "did you mean 'genai_bert'"),
    ],
)
def test_what_cannot_work_is_refused_before_training(more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run("classification", tmp_path / "run", *more)


def test_a_run_that_is_refused_takes_nothing_away_from_the_one_that_it_would_replace(tmp_path):
    folder = tmp_path / "run"
    run("classification", folder, "--save_strategy", "steps", "--save_steps", "1")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert list(folder.glob("checkpoint-*"))
    with pytest.raises(ValueError, match="no column review"):
        run("classification", folder, "--overwrite_output_dir", "true", "--columns", "{text: review}")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    run("classification", folder, "--overwrite_output_dir", "true", "--save_strategy", "no")
    assert not list(folder.glob("checkpoint-*"))


def broken(task: str, place: int, **values) -> list[dict]:
    rows = rows_of(task)
    rows[place].update(values)
    return rows


def test_rows_that_cannot_be_learned_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.Trainer.train", lambda *args, **kwargs: pytest.fail("it trained"))
    held_out = write(tmp_path / "held_out.jsonl", [{"text": "moo", "label": "cow"}])
    listed = write(tmp_path / "listed.jsonl", [{"text": "moo", "label": ["cat"]}])
    for task, rows, more, message in [
        (
            "classification",
            None,
            ["--validation_data", held_out],
            "validation: label 'cow' in column label is none of",
        ),
        (
            "classification",
            None,
            ["--test_data", held_out],
            "test: label 'cow' in column label is none of the 2 known",
        ),
        (
            "classification",
            broken("classification", 5, label=None),
            [],
            r"classification\.jsonl, line 6: column label has no value",
        ),
        (
            "classification",
            [{**row, "label": 0.5} for row in rows_of("classification")],
            [],
            "whole numbers .* not 0.5",
        ),
        (
            "classification",
            [{**row, "label": 1} for row in rows_of("classification")],
            [],
            "two different labels, not",
        ),
        ("classification", [{**row, "text": n} for n, row in enumerate(rows_of("classification"))], [], "hold a text"),
        (
            "classification",
            [{**row, "label": [1, 0, 1]} for row in rows_of("classification")],
            [],
            r"each once .* not \[1, 0, 1\]",
        ),
        (
            "classification",
            [{**row, "label": [0.0, 1.0]} for row in rows_of("classification")],
            [],
            "whole numbers .* not 0.0",
        ),
        (
            "classification",
            None,
            ["--test_data", listed],
            r"listed\.jsonl, line 1: label should be one label, as the first training row has, not \['cat'\]",
        ),
        ("tagging", [{**row, "tags": [None] * 12} for row in rows_of("tagging")], [], "names or numbers .* not None"),
        ("tagging", broken("tagging", 7, tags=["x"]), [], r"row \d+ has 12 words but 1 tags"),
        (
            "tagging",
            [{**row, "tokens": "the cat"} for row in rows_of("tagging")],
            [],
            "should hold a list, not 'the cat",
        ),
        ("qa", broken("qa", 7, answer_start=1), [], "does not stand at character 1 of its context"),
        ("qa", None, ["--max_length", "6"], r"max_length \(6\) must be larger than stride"),
        ("dialogue", [{"messages": [{"text": str(n)}]} for n in range(60)], [], "mapping with role and content"),
        ("dialogue", [{"messages": [str(n), "x" * 500]} for n in range(60)], ["--max_length", "8"], "dropped"),
        ("classification", None, ["--data", "nowhere.csv"], "no such file: nowhere.csv"),
        (
            *("qa", None, ["--model", "null", "--model.model_type", "genai_rnn"]),
            "'genai_rnn' cannot learn qa; of ours, genai_bert, .* can",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            run(task, tmp_path / "run", *more, "--overwrite_output_dir", "true", rows=rows)


def test_models_that_do_not_fit_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.Trainer.train", lambda *args, **kwargs: pytest.fail("it trained"))
    folder = tmp_path / "small"
    AutoModel.from_config(BertConfig(**LAYERS, max_position_embeddings=32)).save_pretrained(folder)
    words = ["the cat sat on a mat and saw a dog run over hills 0123456789"] * 3
    train_tokenizer(words, vocab_size=300).save_pretrained(folder)
    train_tokenizer([*words, *map(chr, range(300, 2000))], vocab_size=2500).save_pretrained(tmp_path / "large")
    given = ["--model", "null", "--model_name_or_path", str(folder)]
    for more, message in [
        ([*given, "--tokenizer_name_or_path", str(tmp_path / "large")], "does not fit the model: it has ids up to"),
        (given, r"max_length \(64\) must be at most the model's 32 positions"),
        (
            ["--model", "{model_type: genai_bert, position_embedding_type: learned, max_position_embeddings: 40}"],
            "model's 40 positions",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            run("classification", tmp_path / "run", *more, "--overwrite_output_dir", "true")


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
    assert answer_scores(["The Cat!", "a dog"], [["cat"], ["big dog"]]) == {
        "exact_match": 0.5,
        "f1": pytest.approx(5 / 6),
    }
    assert answer_scores(["a dog"], [["big dog", "dog"]]) == {"exact_match": 1.0, "f1": 1.0}  # the nearest reference
    # a mark between letters parts no words: "us", and "wellknown" beside "well", "known"
    assert answer_scores(["U.S."], [["US"]]) == {"exact_match": 1.0, "f1": 1.0}
    assert answer_scores(["well-known"], [["well known"]]) == {"exact_match": 0.0, "f1": 0.0}
    nothing = answer_scores(["A.", "", "x"], [["the"], ["word"], ["the"]])  # is left of some without articles
    assert nothing == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx(1 / 3)}
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


def test_a_push_gets_the_name_the_token_and_the_revision(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(recipe, "push", lambda *args, **options: calls.append((args, options)))
    hub = ["--push_to_hub", "--hub_model_id", "me/tags", "--hub_token", "secret", "--hub_revision", "trial"]
    run("tagging", tmp_path / "run", *hub, "--hub_private_repo", "true")
    options = {"private": True, "token": "secret", "revision": "trial"}
    assert calls == [((str(tmp_path / "run"), "me/tags"), options)]
    assert "secret" not in (tmp_path / "run" / "results.json").read_text("utf-8")
