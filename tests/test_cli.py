"""The command `hf-genai`: what it answers, what it writes, how it fails."""

import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import hf_genai
from hf_genai import GenaiGPTConfig, GenaiGPTForCausalLM, cli
from hf_genai.commands.train import run_recipe
from hf_genai.commands.translate import read_texts

HELP = """
import contextlib, io, resource, sys
def seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
import typer
import typer.testing
typer_alone = seconds()
from hf_genai.cli import main
for argv in (["--help"], ["train", "--help"], ["demo", "--help"], []):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(argv)
    assert "hf-genai" in out.getvalue(), argv
assert "torch" not in sys.modules and "transformers" not in sys.modules
print(seconds(), typer_alone)
"""


def run(*argv) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return ended.value.code


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder that `hf-genai demo` leaves, after a few steps, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "hf_genai_demo"
    options = ["--max_steps", "3", "--train_size", "100", "--test_data", "8", "--validation_data", "8", "--use_cpu"]
    options += ["--vocab_size", "320", "--model.hidden_size", "16", "--disable_tqdm", "true", "--eval_steps", "2"]
    command = [
        sys.executable,
        "-m",
        "hf_genai.cli",
        "demo",
        "--output-dir",
        str(folder),
        *options,
        "--save_steps",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_help_answers_without_torch_in_a_few_times_what_typer_needs_to_load():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, typer_alone = map(float, done.stdout.split())  # seconds of processor time, which a busy machine leaves alone
    assert ours < 6 * typer_alone  # importing torch would take it beyond 10


def test_a_torchao_that_no_command_uses_says_nothing_and_other_warnings_are_shown(demo):
    code = """
import logging, sys, torch
from hf_genai.cli import main
torch.version.cuda = None
try:
    main(["generate", sys.argv[1], "in 3 days", "--max_new_tokens", "2"])
except SystemExit:
    assert "torchao" in sys.modules
logging.getLogger("torchao").warning("a kernel is missing")
logging.getLogger("torch.utils._pytree").warning("a tree has no leaves")
"""
    done = subprocess.run([sys.executable, "-c", code, str(demo[0])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Failed to load" not in done.stderr and "Enum" not in done.stderr
    assert "a kernel is missing" in done.stderr and "a tree has no leaves" in done.stderr


@pytest.mark.parametrize("command", ["demo", "train", "generate", "attend", "evaluate", "push", "serve", "doctor"])
def test_the_help_of_each_command_shows_examples(command, capsys):
    assert run(command, "--help") == 0
    assert f"hf-genai {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["genrate"], 2, "No such command 'genrate'. Did you mean 'generate'?"),
        (["generate"], 2, "Missing argument 'MODEL'"),
        (["generate", "m", "text", "--num-beams", "0"], 2, "--num_beams"),
        (["train", "rnn_tony"], 2, "rnn_base, rnn_small, rnn_tiny, train_seq2seq/t5_base"),
        (["train", "t5_tiny"], 2, "name one of pretrain_text/t5_tiny, train_seq2seq/t5_tiny"),
        (["train", "nowhere.yaml"], 2, "no file nowhere.yaml"),
        (["train", "--output_dir", "x", "rnn_tiny"], 2, "CONFIG comes first"),
        (["train", "rnn_tiny", "--learing_rate", "1"], 2, "did you mean 'learning_rate'"),
        (["train", "rnn_tiny", "--output_dir", "x", "--model.hiden_size", "8"], 2, "did you mean 'model.hidden_size'"),
        (["evaluate", "m", "--data", "cldr:en-fr", "--split", "tset"], 2, "split must be one of"),
        (["evaluate", "m", "--data", "cldr:en-xx"], 2, "'xx' is unknown"),
        (["push", "nowhere", "me/model", "--dry-run"], 2, "nowhere"),
    ],
)
def test_wrong_use_is_one_line_that_names_the_problem(argv, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_traceback_is_shown_on_request_alone(capsys):
    with pytest.raises(ValueError, match="rnn_tony"):
        cli.main(["--debug", "train", "rnn_tony"])


def test_train_help_with_a_config_lists_every_key(capsys):
    assert run("train", "rnn_tiny", "--help") == 0
    out = capsys.readouterr().out
    assert "--num_threads" in out and "--separate_vocabularies" in out


def test_a_config_of_ones_own_names_its_recipe(tmp_path, monkeypatch):
    from hf_genai import training

    seen = []
    recipe = type("Recipe", (), {"main": staticmethod(lambda argv: seen.append(argv) or {})})
    monkeypatch.setattr(training, "load_recipe", lambda name: seen.append(name) or recipe)
    config = tmp_path / "mine.yaml"
    config.write_text("recipe: train_seq2seq\n")
    run_recipe(config, ["--seed", "3"])
    assert seen == ["train_seq2seq", [str(config), "--seed", "3"]]


def test_a_recipe_of_several_processes_ends_their_group(tmp_path, monkeypatch):
    from torch import distributed

    from hf_genai import training

    def main(argv):
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        return {}

    monkeypatch.setattr(training, "load_recipe", lambda name: type("Recipe", (), {"main": staticmethod(main)}))
    (tmp_path / "mine.yaml").write_text("recipe: train_seq2seq\n")
    run_recipe(tmp_path / "mine.yaml", [])
    assert not distributed.is_initialized()


def test_a_config_that_names_no_recipe_is_told_which_there_is(tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text("seed: 3\n")
    assert run("train", config) == 2
    assert "the key `recipe` is missing; write `recipe: " in capsys.readouterr().err


def test_lines_end_at_a_line_feed_alone(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_bytes("one\u2028still one\r\n\ntwo\x0bstill two\n".encode())
    assert read_texts(None, lines) == ["one\u2028still one", "", "two\x0bstill two"]
    lines.write_bytes(b"one\ncaf\xe9\n")
    with pytest.raises(ValueError, match="lines.txt, line 2: must be UTF-8"):
        read_texts(None, lines)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_folder_with_a_broken_file_is_told_which(name, tmp_path, capsys, monkeypatch):
    from tiny_seq2seq import make_model, make_tokenizer

    monkeypatch.chdir(tmp_path)
    make_model("rnn").save_pretrained("m")
    make_tokenizer().save_pretrained("m")
    path = Path("m", name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    train = ["train", "rnn_tiny", "--model", "null", "--model_name_or_path", "m", "--output_dir", "x"]
    for argv in (["generate", "m", "text"], ["convert", "m", "y"], [*train, "--train_size", "20"]):
        if argv[0] != "convert" or name != "model.safetensors":  # of a GRU, it reads no weights
            assert run(*argv) == 2
            assert re.search(rf"error: m/{name}.* is broken or cut off", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"[]", b"[" * 100_000, b'{"a": "\xff"}'], ids=["list", "nested", "not UTF-8"])
def test_json_that_is_no_object_of_a_model_stops_every_command_with_its_name(
    name, content, tmp_path, capsys, monkeypatch
):
    from tiny_seq2seq import make_model, make_tokenizer

    monkeypatch.chdir(tmp_path)
    make_model("rnn").save_pretrained("m")
    make_tokenizer().save_pretrained("m")
    Path("m", name).write_bytes(content)
    train = ["train", "rnn_tiny", "--model", "null", "--model_name_or_path", "m", "--output_dir", "x"]
    commands = (["generate", "m", "text"], ["attend", "m", "text"], ["convert", "m", "y"], ["push", "m", "me/m"])
    for argv in (*commands, ["serve", "m"], [*train, "--train_size", "20"]):
        assert run(*argv) == 2
        assert f"m/{name}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"m/{name}"):
        hf_genai.pipeline("translation", model="m")


def test_a_model_of_another_kind_and_a_name_that_is_not_there_are_said_in_a_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    GenaiGPTForCausalLM(GenaiGPTConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1)).save_pretrained("gpt")
    assert run("generate", "gpt", "text") == 2
    assert "error: gpt holds no encoder-decoder, " in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run("generate", "no_such_folder", "text") == 1
    assert "error: no_such_folder: no folder here, and not to be had from the Hub: " in capsys.readouterr().err


def test_a_text_too_long_to_draw_is_cut_with_a_count_and_no_output_stops_at_20_tokens(tmp_path, caplog, monkeypatch):
    from tiny_seq2seq import make_model, make_tokenizer

    from hf_genai.training.results import draw_attention

    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("hf_genai"), "propagate", True)
    tokenizer, model = make_tokenizer("char", model_max_length=6), make_model("rnn")
    files, translation = draw_attention(model, (tokenizer, tokenizer), "the red house", tmp_path / "a", min_length=30)
    assert "Cut 1 of 1 texts to 6 tokens; the longest has 14" in caplog.text
    assert len(tokenizer(translation)["input_ids"]) > 20
    assert "the red house\u2069 \u2192 " in files[1].read_text("utf-8")


def test_the_demo_says_what_it_learned_and_where_everything_lies(demo):
    folder, out = demo
    results = json.loads((folder / "results.json").read_text("utf-8"))
    for word in (
        "this model",
        "copy source",
        "most frequent target",
        "BLEU",
        "results.json",
        "attention-1.html",
        "README.md",
    ):
        assert word in out
    assert f"{results['parameters']:,} parameters" in out and results["samples"][0]["source"] in out
    assert f"hf-genai attend {folder}" in out


def test_a_run_that_shows_no_samples_says_what_came_out_too(demo, capsys):
    from hf_genai.commands.train import echo_results

    folder, _ = demo
    results = json.loads((folder / "results.json").read_text("utf-8"))
    echo_results({**results, "output_dir": str(folder), "samples": []})
    assert f'hf-genai generate {folder} "TEXT"' in capsys.readouterr().out
    sample = {"source": "one", "reference": "un", "output": ""}
    echo_results({**results, "output_dir": str(folder), "samples": [sample]})
    assert "one\n    -> (empty)   (reference: un)" in capsys.readouterr().out


def test_the_demo_does_not_overwrite_what_is_there(demo, capsys):
    folder, _ = demo
    before = (folder / "results.json").read_bytes()
    assert run("demo", "--output_dir", folder) == 2
    assert "not empty" in capsys.readouterr().err
    assert (folder / "results.json").read_bytes() == before


def test_generate_writes_a_line_for_each_text(demo, capsys, tmp_path, monkeypatch):
    folder, _ = demo
    lines = tmp_path / "lines.txt"
    lines.write_text("in 3 days\n5 euros\n", encoding="utf-8")
    assert run("generate", folder, "in 3 days", "5 euros", "--num_beams", "2", "--max-new-tokens", "5") == 0
    given = capsys.readouterr().out
    assert len(given.splitlines()) == 2
    assert run("generate", folder, "--input_file", lines, "--num_beams", "2", "--max_new_tokens", "5") == 0
    assert capsys.readouterr().out == given
    monkeypatch.setattr("sys.stdin", lines.open(encoding="utf-8"))
    assert run("generate", folder, "--num_beams", "2", "--max_new_tokens", "5") == 0
    assert capsys.readouterr().out == given


def test_a_blank_line_stays_blank_and_an_empty_output_is_told(demo, capsys, tmp_path, monkeypatch):
    folder, _ = demo
    lines = tmp_path / "lines.txt"
    lines.write_bytes(b"in 3 days\n\n \t\n5 euros\n\n")
    assert run("generate", folder, "in 3 days", "5 euros", "--max_new_tokens", "5") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert run("generate", folder, "--input_file", lines, "--max_new_tokens", "5") == 0
    captured = capsys.readouterr()
    assert captured.out.split("\n") == [first, "", "", second, "", ""]
    assert "empty" not in captured.err
    monkeypatch.setattr("hf_genai.evaluation.generation.generate_texts", lambda *given, **options: ["", "", "a"])
    assert run("generate", folder, "x", "", "y") == 0
    captured = capsys.readouterr()
    assert captured.out == "\n\na\n" and "1 of 3 outputs are empty: of text 1" in captured.err
    assert run("attend", folder, " ", "--output", tmp_path / "map") != 0
    assert "text must hold something to translate, not ' '" in capsys.readouterr().err


def test_attend_writes_both_pictures_and_overwrites_none_unasked(demo, capsys, tmp_path):
    folder, _ = demo
    assert run("attend", folder, "in 3 days", "--output", tmp_path / "map.png") == 0
    assert (tmp_path / "map.png").stat().st_size > 1000
    (tmp_path / "map.html").write_text("mine")
    assert run("attend", folder, "in 3 days", "--output", tmp_path / "map") == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "map.html").read_text() == "mine"
    assert run("attend", folder, "in 3 days", "--output", tmp_path / "map", "--force") == 0
    assert "in" in (tmp_path / "map.html").read_text("utf-8")


def test_the_command_on_the_card_repeats_the_figures_of_the_training(demo, capsys, monkeypatch):
    folder, _ = demo
    results = json.loads((folder / "results.json").read_text("utf-8"))
    card = (folder / "README.md").read_text("utf-8")
    (command,) = [line for line in card.splitlines() if line.startswith("hf-genai evaluate")]
    monkeypatch.chdir(folder.parent)
    assert run(*shlex.split(command)[1:]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert {key: scores[key] for key in ("bleu", "chrf", "num_examples")} == {
        key: results[key] for key in ("bleu", "chrf", "num_examples")
    }


OWN = [f"{number} old houses" for number in range(400)]


def own_run(folder, *options):
    """A run of one step on 400 pairs of our own; return its results and the words of the command on its card."""
    from hf_genai.training import load_recipe

    rows = [json.dumps({"source": text, "target": text.replace("houses", "maisons")}) for text in OWN]
    (folder / "own.jsonl").write_text("\n".join([*rows, rows[0]]), encoding="utf-8")
    (folder / "held.jsonl").write_text("\n".join(rows[100:160]), encoding="utf-8")
    (folder / "other.jsonl").write_text("\n".join(rows[160:190]), encoding="utf-8")
    options = ["--data", "own.jsonl", "--output_dir", "run", *options, "--max_steps", "1", "--use_cpu", "true"]
    options += ["--tokenizer_kind", "char", "--model.model_type", "genai_rnn", "--model.hidden_size", "8"]
    options += ["--generation.max_new_tokens", "8", "--disable_tqdm", "true", "--num_attention_maps", "0"]
    results = load_recipe("train_seq2seq").main([*options, "--report_to", "none"])
    card = (folder / "run" / "README.md").read_text("utf-8")
    (command,) = [line for line in card.splitlines() if line.startswith("hf-genai evaluate")]
    return results, shlex.split(command)[1:]


@pytest.mark.parametrize(
    "options",
    [
        ["--test_data", "20", "--max_length_chars", "14", "--max_source_length", "7"],
        ["--test_data", "0.1", "--train_size", "50", "--seed", "3", "--max_test_samples", "30"],
        ["--test_data", "held.jsonl", "--validation_data", "other.jsonl"],
        ["--validation_data", "other.jsonl"],
        ["--bleu_tokenize", "char", "--generation.num_beams", "2"],
    ],
)
def test_the_command_on_the_card_of_own_files_scores_the_same_pairs(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results, command = own_run(tmp_path, *options)
    seen = []
    from hf_genai.training import results as module

    scored = module.score_model
    monkeypatch.setattr(module, "score_model", lambda *args, **kw: seen.append((args[2:], kw)) or scored(*args, **kw))
    capsys.readouterr()
    assert run(*command) == 0
    scores = json.loads(capsys.readouterr().out)
    for key in ("bleu", "chrf", "exact_match", "num_examples", "baselines", "bleu_signature", "chrf_signature"):
        assert scores[key] == results[key], key
    ((sources, references, _), kwargs) = seen[0]
    first = [(row["source"], row["reference"]) for row in results["samples"]]
    assert list(zip(sources, references, strict=True))[: len(first)] == first
    if "--max_source_length" in options:
        assert kwargs["max_source_length"] == 7


def test_the_card_names_cell_layers_sizes_and_attention(demo):
    card = (demo[0] / "README.md").read_text("utf-8")
    assert "bidirectional encoder of 1 GRU layer(s) gives 16 numbers a token; its decoder has 1 GRU layer(s)" in card
    assert "of 16 units with additive attention after the cell" in card


def test_a_run_of_several_processes_says_so_in_command_and_hardware():
    import torch

    from hf_genai.training.results import bare, command, hardware, training_dtype

    words = command(["rnn.yaml", "--seed", "3"], 2)
    assert words == "torchrun --nproc_per_node 2 -m hf_genai.cli train rnn.yaml --seed 3"
    assert command(["rnn.yaml"]) == "hf-genai train rnn.yaml"
    for resumed in (
        ["--resume_from_checkpoint"],
        ["--resume-from-checkpoint", "true"],
        ["--resume_from_checkpoint=a/b"],
    ):
        words = ["rnn.yaml", *resumed, "--seed", "3"]  # in a fresh folder there is nothing to go on from
        assert command(words) == command([*words[:1], "--seed", "3", *resumed]) == "hf-genai train rnn.yaml --seed 3"
    private = ["--data=/srv/me/a.tsv", "--data", "/srv/me/b.tsv", "--seed=3"]
    assert command(private) == "hf-genai train --data=a.tsv --data b.tsv --seed=3"
    assert bare({"data": ["/srv/me/a.tsv", "b/c.tsv"], "seed": 3}) == {"data": ["a.tsv", "b/c.tsv"], "seed": 3}
    described = hardware(torch.device("cpu"), 2, training_dtype(SimpleNamespace(mixed_precision="bf16")))
    assert described.startswith("2 processes of ") and described.endswith(" CPU, bfloat16")
    assert "process" not in hardware(torch.device("cpu"))


def test_split_all_scores_every_split_and_says_what_it_left_out(tmp_path):
    from hf_genai.training.results import pairs_of_split

    for split, texts in {"train": ["a", "b", "b", "c", ""], "test": ["c", "d"]}.items():
        rows = [json.dumps({"source": text, "target": text}) for text in texts]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    sources, references, targets, left_out, _ = pairs_of_split("all", source=str(tmp_path))
    assert sources == references == targets == ["a", "b", "c", "d"]
    assert left_out == {"duplicate": 1, "empty": 1, "held_out": 1}
    assert pairs_of_split("all", source=str(tmp_path / "train.jsonl"))[0] == ["a", "b", "c"]
    assert pairs_of_split("test", source=str(tmp_path), validation=1)[0::3] == (["c", "d"], {})


def test_evaluate_scores_a_file_and_overwrites_none_unasked(demo, capsys, tmp_path):
    folder, _ = demo
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("en\tfr\nin 3 days\tdans 3 jours\n5 euros\t5 euros\n", encoding="utf-8")
    options = ["--data", pairs, "--source_column", "en", "--target-column", "fr", "--split", "all"]
    assert run("evaluate", folder, *options, "--output", tmp_path / "scores.json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert printed["num_examples"] == 2 and printed["baselines"]["copy_source"]["exact_match"] == 0.5
    assert run("evaluate", folder, *options, "--output", tmp_path / "scores.json") == 2
    assert run("evaluate", folder, *options, "--output", tmp_path / "nowhere" / "scores.json") == 1
    assert json.loads(capsys.readouterr().out)["bleu"] == printed["bleu"]  # what was computed is not lost


def test_evaluate_scores_every_pair_of_files_that_the_model_was_not_trained_on(monkeypatch, capsys, tmp_path):
    from hf_genai.training import results

    monkeypatch.chdir(tmp_path)
    scored = []
    monkeypatch.setattr("hf_genai.commands.evaluate.open_model", lambda *args: (None, None))
    monkeypatch.setattr(
        results, "score_model", lambda *args, **options: scored.append(len(args[2])) or {"predictions": []}
    )
    rows = "source\ttarget\n" + "".join(f"s {number}\tt {number}\n" for number in range(300))
    for name in ("held_out.tsv", "mine.tsv", "one/rows.tsv", "both/train.tsv", "both/test.tsv"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(rows if name != "both/test.tsv" else "source\ttarget\na\tb\n")
    Path("model").mkdir()
    Path("model", "results.json").write_text(json.dumps({"settings": {"data": ["mine.tsv"]}}))
    for options, count in [
        (["held_out.tsv"], 300),
        (["one"], 300),
        (["both"], 1),
        (["mine.tsv"], 15),  # the model has seen the others
        (["mine.tsv", "--split", "all"], 300),
        (["held_out.tsv", "--split", "test"], 15),
        (["held_out.tsv", "--test_data", "30"], 30),
        (["cldr:en-fr", "--train_size", "9"], 500),
    ]:
        assert run("evaluate", "model", "--data", *options) == 0
        assert scored.pop() == count, options
        assert f"{count} pairs are scored" in capsys.readouterr().err


def test_push_lists_what_would_go_and_sends_nothing(demo, capsys):
    folder, _ = demo
    assert run("push", folder, "me/model", "--dry_run") == 0
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "checkpoint-" not in out and "nothing was sent" in out


def test_push_and_demo_hand_on_what_was_asked(monkeypatch):
    calls = []
    monkeypatch.setattr("hf_genai.hub.push", lambda *args, **options: calls.append((*map(str, args), options)))
    assert run("push", "folder", "me/mine", "--private") == 0
    monkeypatch.setattr("hf_genai.commands.train.run_recipe", lambda config, argv: calls.append(argv))
    monkeypatch.setattr("hf_genai.commands.train.echo_results", lambda results: None)
    assert run("demo", "--seed", "7", "--language_pair", "de-es", "--output_dir", "run", "--max_steps", "1") == 0
    demo = ["--output_dir", "run", "--data", "cldr:de-es", "--seed", "7", "--max_steps", "1"]
    assert calls == [("folder", "me/mine", {"private": True, "dry_run": False}), demo]


def test_scores_of_other_tasks_are_shown_against_their_baselines(capsys):
    from hf_genai.commands.train import echo_results

    base = {
        "parameters": 1234,
        "train_seconds": 9.6,
        "samples": [("given\ntext", "expected", "found")],
        "output_dir": "x",
    }
    fine_tuned = {"scores": {"accuracy": 0.91, "f1": 0.5}, "baselines": {"most frequent label": {"accuracy": 0.25}}}
    echo_results({**base, **fine_tuned})
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines()[1:4]] == [
        ["accuracy", "f1"],
        ["this", "model", "0.910", "0.500"],
        ["most", "frequent", "label", "0.250"],
    ]
    assert "1,234 parameters, 10 s of training" in shown and "given text\n    -> found" in shown
    echo_results({**base, "loss": 4.5, "perplexity": 90.0, "baselines": {"single tokens": {"loss": 6.0}}})
    assert ["single", "tokens", "6.000"] in [line.split() for line in capsys.readouterr().out.splitlines()]
