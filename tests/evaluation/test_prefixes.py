"""What is put before each source is the same in training, scores, commands and pipelines."""

import json

import pytest
from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

import hf_genai
from hf_genai.data import load_tokenizers, train_tokenizer
from hf_genai.evaluation.generation import generate_texts
from hf_genai.evaluation.prefixes import prefix_of, set_prefix, task_settings
from hf_genai.training import load_recipe

FRENCH, GERMAN = "translate English to French: ", "translate English to German: "
TASKS = {
    "summarization": {"prefix": "summarize: ", "num_beams": 2, "max_length": 9},
    "translation_en_to_fr": {"prefix": FRENCH, "num_beams": 2, "max_length": 300},
}
QUICK = ["--max_steps", "2", "--use_cpu", "true", "--eval_strategy", "no", "--save_strategy", "no"]
QUICK += ["--load_best_model_at_end", "false", "--per_device_train_batch_size", "4", "--model", "null"]


def test_a_translation_is_found_by_its_name_its_languages_or_as_the_only_one():
    config = T5Config(task_specific_params=TASKS)
    assert prefix_of(config) == prefix_of(config, "translation_en_to_fr") == FRENCH
    assert prefix_of(config, "summarization") == "summarize: "
    assert prefix_of(config, "translation_en_to_ro") == ""
    both = T5Config(task_specific_params={**TASKS, "translation_en_to_de": {"prefix": GERMAN}})
    assert prefix_of(both) == "" and prefix_of(both, languages=("en", "de")) == GERMAN
    assert task_settings(both, "translation") == {} == task_settings(T5Config(), "summarization")


def test_a_prefix_that_is_set_holds_for_all_tasks():
    config = T5Config(task_specific_params=TASKS)
    set_prefix(config, "x: ")
    assert {prefix_of(config, task) for task in ("translation", "summarization", "translation_en_to_fr")} == {"x: "}
    set_prefix(config, "")
    assert prefix_of(config) == ""
    plain = T5Config()
    set_prefix(plain, "")
    assert "prefix" not in plain.to_dict()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of a T5 that says what stands before the texts of its tasks, and rows to go on with."""
    folder = tmp_path_factory.mktemp("base")
    rows = [(f"red {number} cat", f"RED {number} CAT") for number in range(60)]
    texts = [text for row in rows for text in row]
    tokenizer = train_tokenizer([*texts, *[FRENCH, "summarize: ", "say: "] * 3], vocab_size=330)
    tokenizer.save_pretrained(folder / "t5")
    sizes = {"vocab_size": len(tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
    T5ForConditionalGeneration(T5Config(**sizes, **special, task_specific_params=TASKS)).save_pretrained(folder / "t5")
    for name, columns in {"pairs": ("source", "target"), "texts": ("document", "summary")}.items():
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def inputs_of_training(monkeypatch, folder):
    """Return a list that will hold what the first batch of a training reads, as text."""
    seen = []
    tokenizer, _ = load_tokenizers(folder)

    def train(trainer, **options):
        ids = next(iter(trainer.get_train_dataloader()))["input_ids"]
        seen.extend(tokenizer.batch_decode(ids, skip_special_tokens=True))

    monkeypatch.setattr("transformers.Trainer.train", train)
    return seen


@pytest.mark.parametrize(
    ("given", "expected"), [((), FRENCH), (("--prefix", "say: "), "say: "), (("--prefix", ""), "")]
)
def test_a_translator_is_trained_scored_and_run_with_one_prefix(given, expected, base, tmp_path, monkeypatch):
    seen = inputs_of_training(monkeypatch, base / "t5")
    options = ["--data", str(base / "pairs.jsonl"), "--model_name_or_path", str(base / "t5"), *QUICK, *given]
    options += ["--output_dir", str(tmp_path / "out"), "--generation.max_new_tokens", "6", "--num_samples", "3"]
    results = load_recipe("train_seq2seq").main(options)
    assert seen and all(text.startswith(f"{expected}red") for text in seen)
    assert results["prefix"] == expected
    samples = results["samples"]
    for task in ("translation", "translation_en_to_fr", "text2text-generation"):
        found = hf_genai.pipeline(task, model=str(tmp_path / "out"))([sample["source"] for sample in samples])
        assert [next(iter(row.values())) for row in found] == [sample["output"] for sample in samples]
    model, tokenizers = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out"), load_tokenizers(tmp_path / "out")
    assert generate_texts(model, tokenizers[0], [samples[0]["source"]]) == [samples[0]["output"]]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f'tokenizer("{expected}red' in card and (not given or "prefix" in card)


def test_a_summariser_reads_what_its_pipeline_will_put_before_a_text(base, tmp_path, monkeypatch):
    seen = inputs_of_training(monkeypatch, base / "t5")
    options = ["--task", "summarisation", "--data", str(base / "texts.jsonl"), "--output_dir", str(tmp_path / "out")]
    options += ["--model_name_or_path", str(base / "t5"), "--max_target_length", "6"]
    results = load_recipe("finetune_text").main([*options, *QUICK])
    assert seen and all(text.startswith("summarize: red") for text in seen)
    assert AutoConfig.from_pretrained(tmp_path / "out").prefix == results["prefix"] == "summarize: "
    found = hf_genai.pipeline("summarization", model=str(tmp_path / "out"))([row[0] for row in results["samples"]])
    assert [row["summary_text"] for row in found] == [row[2] for row in results["samples"]]


def test_other_tasks_take_no_prefix(tmp_path):
    options = ["--task", "classification", "--model", "{model_type: genai_bert}", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="prefix: is for summarisation, not for classification, got 'x: '"):
        load_recipe("finetune_text").main([*options, "--prefix", "x: "])


def test_a_converted_model_keeps_what_is_said_of_tasks(base):
    model = hf_genai.from_transformers(base / "t5")
    assert model.config.task_specific_params == TASKS
    assert hf_genai.to_transformers(model).config.task_specific_params == TASKS
