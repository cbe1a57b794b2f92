"""Whatever stands in a config or on a command line: arguments, or an error that says which of them is wrong."""

import logging
import typing

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_genai import cli
from hf_genai.training.arguments import parse_arguments
from hf_genai.training.finetuning import FineTuningArguments, StartArguments, TaskArguments, parse_finetune_arguments
from hf_genai.training.parsing import load_yaml
from hf_genai.training.pretraining import parse_pretrain_arguments

PARSERS = {"seq2seq": parse_arguments, "finetune": parse_finetune_arguments, "pretrain": parse_pretrain_arguments}
# keys of all recipes and of one, nested ones, and none
KEYS = sorted(
    {name for group in (FineTuningArguments, StartArguments, TaskArguments) for name in typing.get_type_hints(group)}
    # what these start (servers, compilers, other processes) is not ours to try
    - {"deepspeed", "fsdp", "fsdp_config", "accelerator_config", "parallelism_config", "ddp_backend", "local_rank"}
    - {
        "use_cpu",
        "bf16_full_eval",
        "fp16_full_eval",
        "bf16",
        "fp16",
        "tf32",
        "torch_compile",
        "distributed_state",
        "torch_compile_backend",
    }
)
KEYS += [
    "source_column",
    "objective",
    "text_column",
    "score",
    "learning_rat",
    "model.hidden_size",
    "generation.x",
    "é",
    "",
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
SCALARS |= st.sampled_from(["1e-3", "-1", "steps", "no", "null", "~", "[", "{a: 1}", "1" * 5000, "--seed", 2**70])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
PIECES = [
    "{",
    "[",
    "}",
    "]",
    ":",
    ": ",
    "- ",
    "\n",
    "  ",
    "#",
    "&a ",
    "*a",
    "!!int ",
    "!!timestamp ",
    "!!python/x ",
    "|",
    ">",
]
PIECES += [
    "seed",
    "model",
    "x",
    "1",
    "'",
    '"',
    "\t",
    "---\n",
    "? ",
    "<<: ",
    "\x00",
    "\ufeff",
    "{" * 3000,
    "9" * 5000,
    "%",
]
WORDS = st.sampled_from(
    ["--seed", "--model", "--data", "--help_", "-x", "--", "-", "--learning_rate=", "--model.size", "="]
)


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@given(st.binary(max_size=60) | st.lists(st.sampled_from([p.encode() for p in PIECES] + [b"\xff"])).map(b"".join))
def test_yaml_is_a_mapping_or_its_file_is_named(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    try:
        values = load_yaml(path)
    except ValueError as error:
        assert type(error) is ValueError and "config.yaml" in str(error)
    else:
        assert all(isinstance(key, str) for key in values)


def check(parse, argv, names) -> None:
    """Parse; an error names one of what was given."""
    try:
        parse(argv)
    except (ValueError, ImportError) as error:
        message = str(error).replace("-", "_").lower()
        assert any(name.lower() in message for name in names), f"{names}: {error}"


@pytest.mark.parametrize("recipe", PARSERS)
@given(values=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
def test_a_config_is_read_or_its_key_or_file_is_named(recipe, values, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
    needed = ["model_name_or_path", "output_dir"]
    argv = [str(path), "--output_dir", str(tmp_path / "out")]
    check(PARSERS[recipe], argv, [*(key.partition(".")[0] for key in values if key), *needed, "config.yaml"])


@pytest.mark.parametrize("recipe", PARSERS)
@given(words=st.lists(WORDS | st.text(max_size=6) | st.sampled_from([f"--{key}" for key in KEYS]), max_size=5))
def test_a_command_line_is_read_or_what_is_wrong_is_named(recipe, words, tmp_path):
    argv = ["--output_dir", str(tmp_path / "out"), *words]
    names = [word.lstrip("-").partition("=")[0].partition(".")[0].replace("-", "_") for word in words]
    check(PARSERS[recipe], argv, [*names, "model_name_or_path", "output_dir", "the command line", "config"])


@pytest.mark.parametrize("command", ["generate", "attend", "evaluate", "convert", "push", "train"])
@given(
    words=st.lists(
        WORDS | st.text(max_size=6) | st.sampled_from(["cldr:en-fr", "--num_beams", "0", "x.yaml"]), max_size=4
    )
)
def test_a_command_ends_in_a_line_that_says_what_is_wrong(command, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    monkeypatch.setattr(cli, "fail", lambda message, code: said.append(message) or code)
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "no/folder-here.x", *words])
    assert ended.value.code in (0, 1, 2)
    assert ended.value.code == 0 or "--debug" not in said[-1]  # which shows where errors come from that nobody meant
