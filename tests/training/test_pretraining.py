"""The pretraining recipe: each objective through main, and what it refuses before training."""

import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, Features, Value
from filelock import FileLock, Timeout
from transformers import AutoModel, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hf_genai import GenaiGPTForCausalLM
from hf_genai.data import train_tokenizer
from hf_genai.data.tokenizers import add_gap_tokens
from hf_genai.objectives.causal_lm import CausalLMCollator
from hf_genai.objectives.fill_in_the_middle import TOKENS
from hf_genai.objectives.masked_lm import MaskedLMCollator
from hf_genai.objectives.span_corruption import SpanCorruptionCollator
from hf_genai.training.checkpoints import sole_run
from hf_genai.training.pretraining import (
    baselines,
    check_fit,
    check_texts,
    make_collator,
    make_rows,
    new_model,
    parse_pretrain_arguments,
    row_length,
    samples,
    seen_by_the_model,
)
from hf_genai.training.pretraining_tokenizer import in_turn, make_tokenizer

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs" / "pretrain_text"
SMALL = [
    "--max_rows",
    "60",
    "--max_steps",
    "3",
    "--row_length",
    "64",
    "--vocab_size",
    "700",
    "--eval_steps",
    "0",
    "--validation_data",
    "0.2",
]
SMALL += ["--model.hidden_size", "32", "--num_samples", "2", "--per_device_batch_size", "4", "--warmup_steps", "1"]
recipe = importlib.import_module("recipes.pretrain_text")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "saw",
        "how",
        "the",
        "dog",
        "ran",
        "over",
        "a",
        "hill",
        "to",
        "find",
        "its",
        "bone",
    ]
    lines = [" ".join(words[(start * step) % 16] for step in range(1, 30)) + f" {start}" for start in range(80)]
    path.write_text("\n\n".join(lines), "utf-8")
    return str(path)


def run(config, texts, folder, *more, without=None):
    small = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    options = [word for pair in small.items() if without is None or without not in pair[0] for word in pair]
    path = str(CONFIGS / f"{config}.yaml")
    return recipe.main([path, "--data", texts, "--output_dir", str(folder), *options, *more])


@pytest.mark.parametrize("config", ["gpt_tiny", "bert_tiny", "t5_tiny", "code_tiny"])
def test_each_objective_ends_in_a_folder_with_model_card_and_metrics(config, texts, tmp_path):
    results = run(config, texts, tmp_path / "run")
    assert results["steps"] == 3
    assert results["loss"] > 0
    assert results["baselines"]["single tokens' frequencies"]["loss"] > 0
    assert len(results["samples"]) == 2
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["loss"] == results["loss"]
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert "Baseline: single tokens' frequencies" in card
    assert "Its output, on the saved model:" in card
    assert "Whether the text is synthetic or real is **not stated**" in card
    for name in ("README.md", "results.json"):
        assert tmp_path.parts[1] + "/" not in (tmp_path / "run" / name).read_text("utf-8"), name
    assert f"hf-genai train {'pretrain_text/' if config == 't5_tiny' else ''}{config} --data texts.txt" in card
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "run"), AutoTokenizer.from_pretrained(tmp_path / "run")
    assert len(tokenizer) <= model.config.vocab_size
    # nothing goes on after </s>: a causal model's prompts do not end in it
    ends = tokenizer("the")["input_ids"][-1] == tokenizer.eos_token_id
    assert ends == (config not in ("gpt_tiny", "code_tiny"))
    if config != "t5_tiny":
        assert 0.5 < results["fill_rate"] <= 1


def test_a_prefix_language_model_and_whole_words_train_too(texts, tmp_path):
    assert run("gpt_tiny", texts, tmp_path / "one", "--objective", "prefix_lm")["loss"] > 0
    more = ["--whole_words", "true", "--packing", "false"]
    assert run("bert_tiny", texts, tmp_path / "two", *more)["fill_rate"] is None


def test_a_run_that_is_there_is_not_overwritten_and_can_be_gone_on_from(texts, tmp_path):
    whole = run("gpt_tiny", texts, tmp_path / "whole")
    run("gpt_tiny", texts, tmp_path / "part", "--save_steps", "2")
    with pytest.raises(ValueError, match="not empty"):
        run("gpt_tiny", texts, tmp_path / "part")
    again = run("gpt_tiny", texts, tmp_path / "part", "--resume_from_checkpoint", "true")
    assert again["losses"] == whole["losses"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--objectiv", "clm"], "unknown key 'objectiv'; did you mean 'objective'"),
        (["--objective", "cml"], "invalid choice: 'cml'"),
        (["--model.hiden_size", "8"], "unknown key 'model.hiden_size'; did you mean 'model.hidden_size'"),
        (["--num_processes", "2"], "asked for: num_processes 2; profile got: num_processes 1"),
        (["--text_column", "body"], "no column body; columns found: text"),
        (["--validation_data", "0"], "holds no text"),
        (["--objective", "mlm"], "model_type 'genai_gpt' cannot learn mlm; of ours, genai_bert"),
        (["--model.model_type", "gpt2"], r"cannot learn clm; of ours, .*genai_gpt"),
        (["--model.vocab_size", "100"], r"model.vocab_size \(100\) is smaller than the tokenizer's"),
        (
            ["--model.position_embedding_type", "learned", "--model.max_position_embeddings", "32"],
            r"row_length \(64\)",
        ),
        (["--whole_words", "true", "--objective", "mlm", "--model.model_type", "genai_bert"], "packing=False"),
        (["--max_steps", "0"], "max_steps must be at least 1"),
        (
            [
                *("--objective", "span_corruption", "--model", "{}", "--model.model_type", "genai_t5"),
                "--vocab_size",
                "300",
            ],
            r"vocab_size \(200\) must be at least 260: .*of 300 tokens, 100 of the objective span_corruption",
        ),
        (["--max_grad_norm", "-1"], "max_grad_norm must be a number of at least 0, not -1"),
        (["--weight_decay", "-1"], "weight_decay must be a number of at least 0, not -1"),
        (["--warmup_steps", "-5"], "warmup_steps must be a number of at least 0, not -5"),
        (["--eval_steps", "-5"], "eval_steps must be a number of at least 0, not -5"),
        (["--learning_rate", "nan"], "learning_rate must be a number above 0, not nan"),
        (["--adam_betas", "0.9", "1.5"], r"adam_betas must be two numbers from 0 to below 1, not \[0.9, 1.5\]"),
        (["--num_threads", "-1"], "num_threads must be at least 0, not -1"),
        (["--lr_scheduler_type", "cosin"], "lr_scheduler_type='cosin' .*'cosine'"),
        (["--lr_scheduler_type", "reduce_lr_on_plateau"], "it follows a measured loss, and not the steps"),
        (["--lr_scheduler_type", "warmup_stable_decay"], "does not fit here: .*num_decay_steps"),
        (
            [*("--objective", "span_corruption", "--model", "{}", "--model.model_type", "genai_t5", "--row_length")]
            + ["256", "--model.hidden_size", "32", "--mean_span_length", "1", "--noise_density", "0.9"],
            r"row_length \(256\), noise_density \(0.9\) and mean_span_length \(1.0\) make rows of 127 spans, .* 100",
        ),
        (["--logging_steps", "0"], "logging_steps must be at least 1"),
        (["--row_length", "7"], "row_length must be at least 8, not 7"),
        (["--adam_betas", "0.9"], "adam_betas must be two numbers"),
        (["--model.model_type", "genai_rnn"], "packing must be false for a recurrent model"),
        (["--push_to_hub", "true"], "push_to_hub needs hub_model_id"),
        (["--resume_from_checkpoint", "true"], "no checkpoint to go on from"),
    ],
)
def test_what_cannot_work_is_refused_before_training(more, message, texts, tmp_path):
    with pytest.raises(ValueError, match=message):
        run("gpt_tiny", texts, tmp_path / "run", *more)


def test_a_push_gets_the_name_the_token_and_the_revision(texts, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(recipe, "push", lambda *args, **options: calls.append((args, options)))
    hub = ["--push_to_hub", "true", "--hub_model_id", "me/texts", "--hub_token", "secret", "--hub_revision", "trial"]
    run("gpt_tiny", texts, tmp_path / "run", *hub, "--hub_private_repo", "true")
    assert calls == [
        ((str(tmp_path / "run"), "me/texts"), {"private": True, "token": "secret", "revision": "trial"}),
    ]
    for name in ("README.md", "results.json"):
        assert "secret" not in (tmp_path / "run" / name).read_text("utf-8")


def test_a_folder_that_another_run_uses_is_refused_at_once(texts, tmp_path):
    with sole_run(tmp_path / "run"):
        for more in ([], ["--overwrite_output_dir", "true"], ["--resume_from_checkpoint"]):
            with pytest.raises(ValueError, match="in use by the run of process"):
                run("gpt_tiny", texts, tmp_path / "run", *more)
    run("gpt_tiny", texts, tmp_path / "run", "--max_steps", "1")


def test_a_licence_or_language_that_the_hub_would_refuse_is_refused_first(texts, tmp_path):
    for more, said in ((["--model_license", "Apache 2"], "apache-2.0"), (["--languages", "en", "French"], "'fr'")):
        with pytest.raises(ValueError, match=f"the command line: {more[0][2:]} must be .* did you mean .*{said}"):
            run("gpt_tiny", texts, tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()


def test_a_column_of_other_things_than_texts_is_refused(texts, tmp_path):
    for place, value in enumerate((7, ["a", "b"])):
        data = tmp_path / f"{place}.jsonl"
        data.write_text("".join(json.dumps({"text": value}) + "\n" for _ in range(40)), "utf-8")
        with pytest.raises(ValueError, match="text_column: column text must hold texts, not"):
            run("gpt_tiny", texts, tmp_path / f"run_{place}", "--data", str(data))


def test_a_model_is_gone_on_with_if_tokenizer_and_objective_fit_it(texts, tmp_path):
    run("gpt_tiny", texts, tmp_path / "first", "--max_steps", "1")
    gone_on = ["--model", "null", "--model_name_or_path", str(tmp_path / "first")]
    results = run("gpt_tiny", texts, tmp_path / "second", *gone_on, without="model.")
    assert results["model_type"] == "genai_gpt"
    with pytest.raises(ValueError, match="model_type 'genai_gpt' cannot learn mlm|lacks <mask>"):
        run("gpt_tiny", texts, tmp_path / "third", *gone_on, "--objective", "mlm", without="model.")
    other = train_tokenizer(["many other words than those"] * 3, "word", 900)
    other.add_tokens([f"word{number}" for number in range(800)])
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"the tokenizer has ids up to \d+, but the model a vocab_size of"):
        more = ["--tokenizer_name_or_path", str(tmp_path / "other")]
        run("gpt_tiny", texts, tmp_path / "fourth", *gone_on, *more, without="model.")


def test_a_baseline_is_measured_on_what_the_model_predicts():
    """Of packed texts no first token is predicted, and of masked ones no token that is not masked."""
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7, 8, 6], [5, 6]], "lengths": [[3, 2], [2]]})
    assert list(seen_by_the_model("clm", rows, CausalLMCollator(0))) == [[5, 6, 7], [8, 6], [5, 6]]
    found = baselines("clm", rows, rows, CausalLMCollator(0), 9)
    # of 7 tokens, 6 is there three times, 7 once; one is added to each count of 9
    assert found["single tokens' frequencies"]["loss"] == pytest.approx(-math.log(4**3 * 2 / 16**4) / 4, abs=1e-4)
    other = Dataset.from_dict({"input_ids": [[5, 5, 5]]})
    found = baselines("clm", other, rows, CausalLMCollator(0), 9)
    # none of the four predicted tokens is a 5, of which there are three; a 6 never follows one
    assert found["single tokens' frequencies"]["loss"] == pytest.approx(math.log(12), abs=1e-4)
    tokenizer = train_tokenizer(["a b c d"] * 9, "word", 20)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    masked = seen_by_the_model("mlm", rows, MaskedLMCollator(tokenizer, mask_prob=0.5))
    assert 0 < sum(map(len, masked)) < 7
    tokenizer.add_tokens(["<extra_id_0>", "<extra_id_1>"], special_tokens=True)
    first, second = tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_1>"])
    rows = Dataset.from_dict({"input_ids": [[5, 6] * 10]})
    (spans,) = seen_by_the_model("span_corruption", rows, SpanCorruptionCollator(tokenizer, 0.3))
    assert spans.count(first) == 2
    assert second not in spans


def test_each_text_ends_whatever_the_tokenizer_of_a_causal_model_does(texts):
    for ends in (True, False):
        tokenizer = train_tokenizer(["the cat sat on a mat"], "word", 12, ends_texts=ends)
        for more in ([], ["--objective", "fim"], ["--objective", "prefix_lm", "--packing", "false"]):
            argv = [str(CONFIGS / "gpt_tiny.yaml"), *more, "--data", texts, "--output_dir", "unused"]
            held = Dataset.from_dict({"text": ["the cat", "a mat"]})
            rows, _ = make_rows(parse_pretrain_arguments(argv), tokenizer, held)
            ids = [number for row in rows["input_ids"] for number in row]
            assert ids.count(tokenizer.eos_token_id) == 2 and ids[-1] == tokenizer.eos_token_id


def test_processes_of_a_machine_go_in_turn_and_find_the_rows_that_the_first_one_made(texts, tmp_path):
    argv = [str(CONFIGS / "gpt_tiny.yaml"), "--data", texts, "--output_dir", "unused"]
    made = train_tokenizer(Path(texts).read_text("utf-8").split(), vocab_size=300)
    made.save_pretrained(tmp_path / "one")
    held = Dataset.from_text(texts, cache_dir=str(tmp_path / "cache"))

    def files_after_making_rows(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with in_turn(held):
            rows, _ = make_rows(parse_pretrain_arguments(argv), tokenizer, held)
        return rows["input_ids"][:], set((tmp_path / "cache").rglob("*.arrow"))

    first, again = files_after_making_rows(tmp_path / "one"), files_after_making_rows(tmp_path / "one")
    assert first == again
    train_tokenizer(["other words"], vocab_size=270).save_pretrained(tmp_path / "other")
    other = files_after_making_rows(tmp_path / "other")
    assert other[0] != first[0] and other[1] > first[1]
    with in_turn(held), pytest.raises(Timeout):
        FileLock(in_turn(held).lock_file, timeout=0).acquire()
    with in_turn(Dataset.from_dict({"text": ["a"]})), in_turn(Dataset.from_dict({"text": ["a"]})):
        pass  # each process has its own: nothing to wait for


def test_a_tokenizer_is_trained_once_for_all_processes_of_a_machine(texts, tmp_path, monkeypatch):
    argv = [str(CONFIGS / "bert_tiny.yaml"), "--data", texts, "--output_dir", "unused", "--vocab_size", "300"]
    held = Dataset.from_text(texts, cache_dir=str(tmp_path / "cache"))
    first = make_tokenizer(parse_pretrain_arguments(argv), held)
    assert first.mask_token == "<mask>" and len(first) <= 300
    other = make_tokenizer(parse_pretrain_arguments([*argv, "--vocab_size", "310"]), held)
    assert len(other) > len(first)
    monkeypatch.setattr("hf_genai.training.pretraining_tokenizer._new_tokenizer", lambda *args: 1 / 0)
    again = make_tokenizer(parse_pretrain_arguments(argv), held)
    assert again.get_vocab() == first.get_vocab() and again.mask_token == "<mask>"


def test_rows_are_as_long_after_the_objective_as_asked_for(tmp_path):
    arguments = [str(CONFIGS / "t5_tiny.yaml"), "--output_dir", str(tmp_path / "run"), "--row_length", "512"]
    assert row_length(parse_pretrain_arguments(arguments)) == 568


def parse_tiny(config, *more):
    return parse_pretrain_arguments([str(CONFIGS / f"{config}_tiny.yaml"), "--output_dir", "unused", *more])


@pytest.mark.parametrize(
    ("config", "objective", "least"), [("gpt", "prefix_lm", 3), ("t5", None, 3), ("bert", None, 2)]
)
def test_texts_that_are_not_packed_are_cut_and_lose_nothing_but_what_is_too_short(config, objective, least):
    more = ["--objective", objective] if objective else ["--packing", "false"]  # a prefix is never packed
    tokenizer = train_tokenizer(["a b c d"] * 9, "word", 20)
    texts = Dataset.from_dict({"text": ["a b c d " * 5, "a b", "a", ""]})
    arguments = parse_tiny(config, "--row_length", "8", *more)
    rows, packed = make_rows(arguments, tokenizer, texts)
    length, ids = row_length(arguments), tokenizer(texts["text"][:])["input_ids"]
    cut = [text[start : start + length] for text in ids for start in range(0, len(text), length)]
    assert packed is None and rows["input_ids"][:] == [row for row in cut if len(row) >= least]


def test_rows_leave_room_for_what_filling_in_the_middle_adds():
    assert row_length(parse_tiny("code", "--row_length", "64")) == 61


def test_what_was_set_for_the_objective_reaches_its_batches():
    tokenizer = train_tokenizer(["a b c d"] * 9, "word", 20)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.add_tokens([*(f"<extra_id_{number}>" for number in range(100)), *TOKENS], special_tokens=True)
    for config, settings in {
        "bert": {"mask_prob": 0.3, "whole_words": True},
        "t5": {"noise_density": 0.4, "mean_span_length": 2.0},
        "code": {"fim_prob": 0.7, "spm_prob": 0.1},
    }.items():
        arguments = parse_tiny(config, *(word for name in settings for word in (f"--{name}", str(settings[name]))))
        assert settings.items() <= vars(make_collator(arguments, tokenizer)).items()


def test_samples_are_what_was_given_what_stood_there_and_what_was_written():
    """Of packed rows, of their first text."""

    class Model(SimpleNamespace):
        device, eval = torch.device("cpu"), staticmethod(lambda: None)

        def generate(self, input_ids, attention_mask, **options):
            begin = input_ids if self.causal else torch.tensor([[0]])
            return torch.cat([begin, torch.tensor([[9, 8]])], 1)

    tokenizer = train_tokenizer(["abcdefgh"], "char", 20)  # a to h: 4 to 11
    add_gap_tokens(tokenizer, "char", "<mask>", ["<extra_id_0>", "<extra_id_1>"])
    mask, first, second = tokenizer.convert_tokens_to_ids(["<mask>", "<extra_id_0>", "<extra_id_1>"])
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7, 4, 4], [5, 6]], "lengths": [[4, 1], [2]]})
    found = samples(Model(causal=True), tokenizer, "clm", rows, None, 1)
    assert found == [("bc", "da", "fe")]
    batch = {"input_ids": [[5, first, 6, second, 2]], "attention_mask": [[1] * 5]}
    batch["labels"] = [[first, 7, 8, second, 4, 2]]
    collate = lambda examples: {name: torch.tensor(value) for name, value in batch.items()}  # noqa: E731
    found = samples(Model(causal=False), tokenizer, "span_corruption", rows, collate, 5)
    assert found == [("b<extra_id_0>c<extra_id_1>", "de | a", "fe")] * 2

    class Guess(SimpleNamespace):
        device, eval = torch.device("cpu"), staticmethod(lambda: None)

        def __call__(self, **inputs):  # the mask itself first, then "h"
            return SimpleNamespace(logits=torch.nn.functional.one_hot(torch.tensor([[mask, mask]]), 20) * 2.0)

    batch = {"input_ids": [[5, mask]], "attention_mask": [[1, 1]], "labels": [[-100, 6]]}
    ((given, wanted, found),) = samples(Guess(), tokenizer, "mlm", rows, collate, 1)
    assert (given, wanted) == ("b<mask>", "c") and found in set("abcdefgh")


def test_a_model_of_transformers_is_gone_on_with_as_one_of_ours(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    gone_on = parse_tiny("gpt", "--model", "null", "--model_name_or_path", str(tmp_path))
    model = new_model(gone_on, Vocabulary(20))
    assert type(model) is GenaiGPTForCausalLM
    check_fit(model, Vocabulary(20), gone_on)
    with pytest.raises(ValueError, match="ids up to 20, but the model a vocab_size of 20"):
        check_fit(model, Vocabulary(21), gone_on)


def test_rows_longer_than_a_model_without_a_table_of_positions_was_made_for_are_taken():
    config = {"vocab_size": 9, "max_position_embeddings": 32, "model_type": "genai_gpt"}
    rotary = SimpleNamespace(config=SimpleNamespace(**config, position_embedding_type="rotary"))
    check_fit(rotary, Vocabulary(9), parse_tiny("gpt", "--row_length", "64"))


def test_long_strings_are_texts_too():
    check_texts(Dataset.from_dict({"text": ["a"]}, features=Features({"text": Value("large_string")})), "text")


# weights of the published sizes, counted once where a table has two uses
PARAMETERS = {"bert_base": 109_514_298, "gpt_base": 124_439_808, "t5_base": 222_903_552}


class Vocabulary:
    """A tokenizer as large as a config's, without the texts to train it on."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(self.size)}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_config_builds_a_model_that_its_rows_fit(path, tmp_path):
    arguments = parse_pretrain_arguments([str(path), "--output_dir", str(tmp_path / "run")])
    tokenizer = Vocabulary(arguments.tokenizer.vocab_size)
    with torch.device("meta"):
        model = new_model(arguments, tokenizer)
    check_fit(model, tokenizer, arguments)
    assert arguments.data.row_length <= model.config.max_position_embeddings
    assert arguments.training.warmup_steps < arguments.training.max_steps / 5
    family, _, size = path.stem.partition("_")
    count = model.num_parameters()
    assert count == PARAMETERS.get(path.stem, count)
    if size != "tiny":
        stated = f"{count:,}" if path.stem in PARAMETERS else f"{round(count / 1e6)} million"
        assert f"{stated} parameters" in path.read_text("utf-8")
    assert {f"{family}_{other}" for other in ("tiny", "small", "base")} <= {other.stem for other in CONFIGS.glob("*")}
