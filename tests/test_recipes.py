"""Each recipe, a few steps long, through its `main`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from hf_genai.data import load_tokenizers
from hf_genai.training import load_recipe, recipes_dir
from hf_genai.training.trainer import GenaiSeq2SeqTrainer, TrainingInterrupted

TINY = str(recipes_dir() / "configs" / "train_seq2seq" / "rnn_tiny.yaml")
SHORT = [
    *("--train_size", "120", "--validation_data", "8", "--test_data", "8", "--vocab_size", "320"),
    *("--eval_steps", "3", "--save_steps", "3", "--max_target_length", "24", "--generation.max_new_tokens", "8"),
    *("--num_attention_maps", "1", "--disable_tqdm", "true", "--use_cpu", "true"),
]
SMALL = ["--model.hidden_size", "16"]
T5 = """
recipe: train_seq2seq
tokenizer_kind: char
model: {model_type: t5, d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_decoder_layers: 1, num_heads: 2}
label_smoothing_factor: 0.1
generation: {suppress_tokens: [0, 1, 2, 3]}
"""


@pytest.fixture(scope="module")
def main():
    return load_recipe("train_seq2seq").main


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_two_steps_leave_a_folder_that_opens_and_says_what_was_done(main, tmp_path):
    folder = tmp_path / "run"
    results = main([TINY, "--output_dir", str(folder), *SHORT, *SMALL, "--max_steps", "2"])
    assert results.pop("output_dir") == str(folder)
    assert results == json.loads((folder / "results.json").read_text("utf-8"))
    assert str(tmp_path) not in (folder / "results.json").read_text("utf-8")
    assert set(results["baselines"]) == {"copy_source", "most_frequent_target"}
    assert results["num_examples"] == 8 and results["train_steps"] == 2
    assert results["parameters"] == AutoModelForSeq2SeqLM.from_pretrained(folder).num_parameters()
    assert {"bleu", "chrf", "exact_match", "train_seconds", "versions", "command"} <= set(results)
    assert (folder / "attention-1.png").stat().st_size > 1000 and "<html" in (folder / "attention-1.html").read_text(
        "utf-8"
    )
    source, target = load_tokenizers(folder)
    assert source is target and source("in 3 days")["input_ids"][-1] == 2
    card = (folder / "README.md").read_text("utf-8")
    assert "hf-genai train rnn_tiny --output_dir run" in card and str(tmp_path) not in card
    config = json.loads((folder / "generation_config.json").read_text("utf-8"))
    assert config["max_new_tokens"] == 8 and "max_length" not in config


def test_the_same_file_trains_a_t5(main, tmp_path):
    config = tmp_path / "t5.yaml"
    config.write_text(T5)
    results = main([str(config), "--output_dir", str(tmp_path / "t5"), *SHORT, "--max_steps", "2"])
    assert AutoConfig.from_pretrained(tmp_path / "t5").model_type == results["model_type"] == "t5"
    assert results["attention_maps"] == ["attention-1.png", "attention-1.html"]


@pytest.mark.parametrize("config", ["t5_tiny", "t5_small"])
def test_our_transformer_needs_another_config_and_no_other_line(main, config, tmp_path):
    sizes = ["--model.hidden_size", "16", "--model.num_attention_heads", "2"]
    path, folder = str(Path(TINY).with_stem(config)), str(tmp_path / "t5")
    results = main([path, "--output_dir", folder, "--data", "cldr:en-fr", *SHORT, *sizes, "--max_steps", "2"])
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert type(model).__name__ == "GenaiT5ForConditionalGeneration" and model.config.hidden_size == 16
    assert results["attention_maps"] == ["attention-1.png", "attention-1.html"]
    assert "2 query and 1 key/value heads" in (tmp_path / "t5" / "README.md").read_text("utf-8")
    with pytest.raises(ValueError, match="unknown key 'model.encoder_layer'; did you mean 'model.encoder_layers'"):
        main([path, "--output_dir", folder + "2", "--data", "cldr:en-fr", *SHORT, "--model.encoder_layer", "2"])


def test_two_vocabularies_are_trained_and_saved(main, tmp_path):
    options = [
        "--separate_vocabularies",
        "--target_vocab_size",
        "300",
        "--max_steps",
        "1",
        "--num_attention_maps",
        "0",
    ]
    main([TINY, "--output_dir", str(tmp_path), *SHORT, *SMALL, *options, "--overwrite_output_dir"])
    source, target = load_tokenizers(tmp_path)
    saved = load_tokenizers(tmp_path / "checkpoint-1")
    assert [len(tokenizer) for tokenizer in saved] == [len(source), len(target)]
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.source_vocab_size, config.vocab_size) == (len(source), len(target)) == (320, 300)


def test_a_model_is_fine_tuned_with_its_own_tokenizer(main, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    main([TINY, "--output_dir", str(first), *SHORT, *SMALL, "--max_steps", "1"])
    config = tmp_path / "tune.yaml"
    config.write_text(f"model_name_or_path: {first}\nmodel: {{dropout: 0.3}}\n")
    main([str(config), "--output_dir", str(second), *SHORT, "--max_steps", "1", "--learning_rate", "0"])
    assert weights_of(first) == weights_of(second)
    assert (first / "tokenizer.json").read_bytes() == (second / "tokenizer.json").read_bytes()
    assert AutoConfig.from_pretrained(second).dropout == 0.3


def test_code_that_the_tokenizer_of_a_base_model_names_neither_runs_nor_goes_on(main, tmp_path):
    base = tmp_path / "base"
    main([TINY, "--output_dir", str(base), *SHORT, *SMALL, "--max_steps", "1"])
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": [None, "tokens.Tokens"]}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    (base / "tokens.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import PreTrainedTokenizerFast\n\n\nclass Tokens(PreTrainedTokenizerFast): pass\n"
    )
    (tmp_path / "tune.yaml").write_text(f"model_name_or_path: {base}\n")
    options = [*SHORT, "--max_steps", "1", "--num_attention_maps", "0"]
    main([str(tmp_path / "tune.yaml"), "--output_dir", str(tmp_path / "run"), *options])
    assert not (tmp_path / "ran").exists()
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1"):
        assert "auto_map" not in (folder / "tokenizer_config.json").read_text()
        assert "auto_map" in (folder / "config.json").read_text() and not (folder / "tokens.py").exists()
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert "trust_remote_code=True" in card and "Its output, on the saved model" in card


def test_evaluations_may_measure_the_loss_alone(main, tmp_path):
    options = ["--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "1", "--predict_with_generate", "false"]
    best = ["--save_steps", "1", "--load_best_model_at_end", "true", "--metric_for_best_model", "loss"]
    assert main([TINY, "--output_dir", str(tmp_path), *SHORT, *SMALL, *options, *best])["train_steps"] == 2


def test_a_run_that_was_interrupted_and_resumed_equals_one_that_was_not(main, tmp_path, monkeypatch, capsys):
    options = [*SHORT, *SMALL, "--max_steps", "6", "--num_attention_maps", "0"]
    main([TINY, "--output_dir", str(tmp_path / "whole"), *options])
    step, count = GenaiSeq2SeqTrainer.training_step, iter(range(100))

    def interrupted(self, *args, **kwargs):
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(GenaiSeq2SeqTrainer, "training_step", interrupted)
    again = [TINY, "--output_dir", str(tmp_path / "parts"), *options]
    with pytest.raises(TrainingInterrupted, match="after step 4 of 6"):
        main(again)
    with pytest.raises(ValueError, match="is not empty"):
        main(again)
    elsewhere = [*again, "--output_dir", str(tmp_path / "new"), "--resume_from_checkpoint"]
    main([*elsewhere, str(tmp_path / "parts" / "checkpoint-4")])
    assert weights_of(tmp_path / "new") == weights_of(tmp_path / "whole")
    assert next(count) == 6  # four steps before, two after: none was done again
    results = main([*again, "--resume_from_checkpoint"])
    assert results["train_steps"] == 6 and results["resumed_from"].endswith("checkpoint-4")
    assert weights_of(tmp_path / "parts") == weights_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "push_to_hub needs hub_model_id"),
        (["--hub_model_id", "me/no good"], "hub_model_id: .*me/no good"),
        (["--hub_model_id", "me/dates"], "push_to_hub needs a token: log in with `hf auth login`"),
    ],
)
def test_a_push_that_would_fail_is_refused_before_training(main, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ValueError, match=message):
        main([TINY, "--output_dir", str(tmp_path / "run"), *SHORT, *SMALL, "--push_to_hub", *options])
    assert not (tmp_path / "run").exists()


def test_a_push_gets_the_name_the_token_and_the_revision(main, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(main.__globals__, "push", lambda *args, **options: calls.append((args, options)))
    hub = ["--push_to_hub", "--hub_model_id", "me/dates", "--hub_token", "hf_secret", "--hub_revision", "trial"]
    main([TINY, "--output_dir", str(tmp_path), *SHORT, *SMALL, "--max_steps", "1", *hub])
    options = {"private": False, "token": "hf_secret", "revision": "trial"}
    assert calls == [((str(tmp_path), "me/dates"), options)]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert not [path for path in files if b"hf_secret" in path.read_bytes()]


def test_an_error_while_scoring_leaves_the_trained_weights(main, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setitem(main.__globals__, "score_model", fails)
    options = [*SHORT, *SMALL, "--max_steps", "2"]
    with pytest.raises(KeyboardInterrupt):
        main([TINY, "--output_dir", str(tmp_path), *options])
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path).config.hidden_size == 16
    assert weights_of(tmp_path) == weights_of(tmp_path / "checkpoint-2")
    assert "not scored" in (tmp_path / "README.md").read_text("utf-8")
    monkeypatch.undo()
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text("utf-8"))
    before = state["stateful_callbacks"]["TrainingClock"]["attributes"]["before"]
    state["stateful_callbacks"]["TrainingClock"]["attributes"]["before"] = before + 1000
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text(json.dumps(state), "utf-8")
    results = main([TINY, "--output_dir", str(tmp_path), *options, "--resume_from_checkpoint"])
    assert 0 < before < 1000 < results["train_seconds"] < results["total_seconds"]
    assert "not scored" not in (tmp_path / "README.md").read_text("utf-8")
    assert not (tmp_path / "training_args.bin").exists()


def test_a_run_without_evaluation_needs_no_validation_pairs(main, tmp_path):
    none = ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--validation_data", "0"]
    main([TINY, "--output_dir", str(tmp_path), *SHORT, *SMALL, *none, "--max_steps", "1"])
    assert (tmp_path / "model.safetensors").is_file()


EXACT = [
    *("--max_steps", "3", "--model.dropout", "0", "--train_sampling_strategy", "sequential", "--logging_steps", "1"),
    *("--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_strategy", "steps", "--save_steps", "3"),
    *("--num_attention_maps", "0"),
]


def losses_of(folder: Path) -> list[float]:
    history = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    return [row["loss"] for row in history if "loss" in row]


def test_accumulation_and_two_processes_train_as_one_large_batch_does(main, tmp_path):
    def options(name, batch, accumulated):
        sizes = ["--per_device_train_batch_size", batch, "--gradient_accumulation_steps", accumulated]
        return [TINY, "--output_dir", str(tmp_path / name), *SHORT, *SMALL, *EXACT, *sizes]

    main(options("large", "8", "1"))
    main(options("accumulated", "4", "2"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    done = subprocess.run(
        [*torchrun, str(recipes_dir() / "train_seq2seq.py"), *options("two", "4", "1")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(recipes_dir().parent), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = pytest.approx(losses_of(tmp_path / "large"), abs=1e-4)
    assert len(losses_of(tmp_path / "large")) == 3
    assert losses_of(tmp_path / "accumulated") == expected
    assert losses_of(tmp_path / "two") == expected
    assert json.loads((tmp_path / "two" / "results.json").read_text("utf-8"))["train_steps"] == 3
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "two").config.hidden_size == 16


def test_a_vocabulary_smaller_than_the_ids_and_an_empty_set_are_refused(main, tmp_path):
    with pytest.raises(ValueError, match=r"model.vocab_size \(30\) is smaller"):
        main([TINY, "--output_dir", str(tmp_path / "a"), *SHORT, *SMALL, "--model.vocab_size", "30"])
    assert not (tmp_path / "a").exists()  # so that the command, put right, finds no folder of another run
    (tmp_path / "empty.csv").write_text("source,target\n")
    with pytest.raises(ValueError, match=r"empty\.csv"):
        main([TINY, "--output_dir", str(tmp_path / "b"), "--data", str(tmp_path / "empty.csv")])


def test_sources_that_are_too_long_are_counted_and_reported(main, tmp_path, caplog):
    main([TINY, "--output_dir", str(tmp_path), *SHORT, *SMALL, "--max_steps", "1", "--max_source_length", "6"])
    assert "sources cut at 6 ids" in caplog.text


def test_sigterm_ends_the_script_with_143_and_a_checkpoint_to_resume(tmp_path):
    script = [sys.executable, str(recipes_dir() / "train_seq2seq.py"), TINY, "--output_dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        [
            *script,
            *SHORT,
            *SMALL,
            "--max_steps",
            "100000",
            "--eval_strategy",
            "no",
            "--load_best_model_at_end",
            "false",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(recipes_dir().parent)},
    )
    try:
        while not list((tmp_path / "run").glob("checkpoint-*")) and process.poll() is None:
            time.sleep(0.2)
        process.terminate()
        _, errors = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert "is whole. Go on with the same command and --resume_from_checkpoint true" in errors
    assert "Traceback" not in errors
