from types import SimpleNamespace

import pytest

from hf_genai import GenaiRNNConfig, GenaiRNNForConditionalGeneration
from hf_genai.data import train_tokenizer
from hf_genai.training.arguments import parse_arguments
from hf_genai.training.finetuning import parse_finetune_arguments
from hf_genai.training.model_config import build_config, set_generation
from hf_genai.training.parsing import load_yaml

T5 = """
model: {model_type: t5, d_model: 32, d_ff: 64}
learning_rate: 1e-3
eval_strategy: no
generation: {num_beams: 2}
output_dir: somewhere
"""


@pytest.fixture
def config(tmp_path):
    def write(text=T5):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["one two three", "un deux trois"], kind="char", vocab_size=40)


def test_the_file_wins_over_defaults_and_the_command_line_over_the_file(config):
    arguments = parse_arguments(
        [config(), "--learning-rate", "2e-3", "--model.d_ff=16", "--generation.num_beams", "4"]
    )
    assert arguments.training.learning_rate == 2e-3
    assert arguments.model.model == {"model_type": "t5", "d_model": 32, "d_ff": 16}
    assert arguments.generation.generation == {"num_beams": 4}
    assert arguments.training.eval_strategy == "no"  # a bare `no`, which YAML reads as false
    assert arguments.training.per_device_train_batch_size == 64
    assert parse_arguments([config()]).training.learning_rate == 1e-3  # 1e-3, which PyYAML reads as a text


def test_another_type_of_model_does_not_keep_the_fields_of_the_first(config):
    gru = {"model_type": "genai_rnn", "hidden_size": 8}
    assert parse_arguments([config(), "--model", str(gru)]).model.model == gru
    dotted = ["--model.model_type", "genai_rnn", "--model.hidden_size", "8"]
    assert parse_arguments([config(), *dotted]).model.model == gru
    same = parse_arguments([config(), "--model", "{model_type: t5, d_ff: 16}"]).model.model
    assert same == {"model_type": "t5", "d_model": 32, "d_ff": 16}


def test_null_takes_back_what_the_file_sets(config):
    text = "early_stopping_patience: 3\nmetric_for_best_model: bleu\neval_strategy: steps\noutput_dir: x\n"
    assert parse_arguments([config(text)]).training.early_stopping_patience == 3
    options = [config(text), "--early_stopping_patience", "null", "--train_size", "none"]
    assert parse_arguments(options).training.early_stopping_patience is None
    with pytest.raises(ValueError, match="early_stopping_patience .*needs an eval_strategy"):
        parse_arguments([config(text), "--eval_strategy", "no"])


def test_logging_to_a_package_that_is_not_there_names_its_extra(config, monkeypatch):
    from hf_genai.training import arguments

    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'hf_genai\[trackio\]'"):
        parse_arguments([config(), "--report_to", "trackio"])


def test_what_was_given_is_kept_apart_from_defaults(config):
    assert set(parse_arguments([config(), "--seed", "7"]).given) == {
        *("model", "learning_rate", "eval_strategy", "generation", "output_dir", "seed")
    }


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("learing_rate: 1\n", [], r"config\.yaml: unknown key 'learing_rate'; did you mean 'learning_rate'"),
        ("", ["--learing_rate", "1"], r"the command line: unknown key 'learing_rate'; did you mean 'learning_rate'"),
        (
            "",
            ["--generation.num_beems", "3"],
            r"unknown key 'generation.num_beems'; did you mean 'generation.num_beams'",
        ),
        ("num_train_epochs: soon\n", [], r"config\.yaml: .*num_train_epochs.*invalid float value: 'soon'"),
        ("", ["--seed", "1.5"], r"the command line: .*seed.*invalid int value: '1\.5'"),
        ("use_cpu: 3\n", [], r"config\.yaml: .*use_cpu.*Truthy value expected"),
        ("train_sampling_strategy: group_by_lenght\n", [], r"invalid choice: 'group_by_lenght'"),
        ("seed: 1\nseed: 2\n", [], r"the key 'seed' stands there twice"),
        ("learning_rate: null\n", [], r"learning_rate may not be null"),
        ("logging_steps: [1, 2]\n", [], r"logging_steps takes one value"),
        ("- a\n- b\n", [], r"expected `key: value` lines, got list"),
        ("seed: [1\n", [], r"config\.yaml: while parsing"),
        ("model: t5\n", [], r"config\.yaml: .*model.*invalid mapping value|expected a mapping"),
        ("seed: 1\nmodel: " + "{" * 3000, [], r"config\.yaml: line 2: it is nested too deeply"),
        ("- " * 3000, [], r"config\.yaml: line 1: it is nested too deeply"),
        ("", ["--model.hidden_size", "[" * 3000], r"the command line: --model.hidden_size: .* nested too deeply"),
        ("", ["--model.hidden_size", "]"], r"the command line: --model.hidden_size: "),
        ("seed: 1\nseed: \x07\n", [], r"config\.yaml: line 2: special characters are not allowed: '\\x07'"),
        ("seed: 1\ndata: 2026-13-01\n", [], r"config\.yaml: line 2: 2026-13-01 cannot be read: month must be"),
        ("seed: !!bool x\n", [], r"config\.yaml: line 1: x cannot be read"),
        (
            "data: &a [x]\nlanguages: &b [*a, *a]\nmodel: *b",
            [],
            r"line 2: \*a stands inside of an anchor",
        ),
        ("1: 2\n", [], r"config\.yaml: keys must be texts, not 1"),
        ("", ["--model.d_model"], r"--model.d_model needs a value"),
        ("", ["7"], r"there is no file 7"),
        ("", ["--seed", "7", "8"], r"'8' belongs to no --key"),
    ],
)
def test_a_wrong_key_or_value_is_an_error_that_names_it_and_its_place(config, text, options, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments([config(text), *options, *([] if "7" in options else ["--output_dir", "x"])])


def test_bytes_of_a_config_that_are_not_utf8_are_named_by_their_line(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"seed: 1\nmodel_title: caf\xe9\n")
    with pytest.raises(ValueError, match=r"config\.yaml, line 2: must be UTF-8, not the byte 0xe9"):
        load_yaml(tmp_path / "config.yaml")


def test_a_value_may_stand_for_another_one_and_dates_in_a_mapping_are_texts(config):
    path = config("data: &a [en]\nlanguages: *a\nmodel: {model_type: genai_rnn, since: 2026-01-02}\n")
    assert load_yaml(path)["languages"] == ["en"]
    assert parse_arguments([path, "--output_dir", "x"]).model.model["since"] == "2026-01-02"


@pytest.mark.parametrize("key", ["test_data", "max_test_samples", "validation_data", "max_eval_samples"])
def test_an_empty_set_is_refused_where_it_would_be_missed(config, key):
    with pytest.raises(ValueError, match=f"{key} must be above 0, got 0"):
        parse_arguments([config(), "--eval_strategy", "epoch", f"--{key}", "0"])
    if "test" not in key:
        assert getattr(parse_arguments([config(), f"--{key}", "0"]).data, key) in (0, "0")  # eval_strategy: no


def test_configuration_and_revision_of_a_data_set_are_passed_on(config):
    options = parse_arguments([config(), "--data_config", "de-en", "--data_revision", "v2"]).data.load_options()
    assert (options["config_name"], options["revision"]) == ("de-en", "v2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--generation.length_penalty", "0.5"], r"^generation\.length_penalty \(the command line\): .*num_beams"),
        (["--generation.max_new_tokens", "0"], r"^generation\.max_new_tokens .*must be greater than 0"),
        (["--generation.num_beams", "0"], r"generation\.num_beams must be .* got 0"),
        (
            ["--generation.num_beams", "2", "--generation.num_return_sequences", "2"],
            r"generation\.num_return_sequences must be 1, .* got 2",
        ),
    ],
)
def test_generation_settings_that_do_not_go_together_are_refused_before_training(options, message):
    model = GenaiRNNForConditionalGeneration(GenaiRNNConfig(vocab_size=16, hidden_size=8))
    with pytest.raises(ValueError, match=message):
        set_generation(model, parse_arguments(["--output_dir", "x", *options]), max_new_tokens=9)


@pytest.mark.parametrize("parse", [parse_arguments, parse_finetune_arguments])
def test_to_go_without_evaluation_says_what_else_to_set(parse):
    argv = ["--output_dir", "x", "--model", "{model_type: genai_bert}", "--eval_strategy", "no"]
    with pytest.raises(ValueError, match="eval_strategy=no needs --load_best_model_at_end false"):
        parse([*argv, "--load_best_model_at_end", "true"])
    assert not parse([*argv, "--load_best_model_at_end", "false"]).training.load_best_model_at_end


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric_for_best_model", "accuracy"], "must be one of loss, bleu, chrf, exact_match, .* not 'accuracy'"),
        (
            ["--metric_for_best_model", "bleu", "--predict_with_generate", "false"],
            "must be one of loss, .* not 'bleu'",
        ),
        (["--early_stopping_patience", "2"], "early_stopping_patience needs a metric_for_best_model"),
        (["--early_stopping_patience", "0"], "early_stopping_patience must be at least 1 or null, not 0"),
        (["--label_smoothing_factor", "2"], "label_smoothing_factor must be from 0 to below 1, not 2"),
        (["--eval_do_concat_batches", "false"], "eval_do_concat_batches must be true"),
        (["--max_target_length", "0"], "max_target_length must be at least 2 .* got 0"),
    ],
)
def test_what_the_first_evaluation_would_find_out_is_refused_at_once(config, options, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments([config(), "--eval_strategy", "epoch", *options])


def test_a_run_needs_an_output_folder(config):
    with pytest.raises(ValueError, match="output_dir"):
        parse_arguments([config("seed: 1\n")])


def test_numbers_and_lists_reach_load_pairs_as_such(config):
    text = "data: [a.en, a.fr]\nvalidation_data: 0.1\ntest_data: 20\nlanguages: [en, fr]\noutput_dir: x\n"
    options = parse_arguments([config(text)]).data.load_options()
    assert (options["source"], options["validation"], options["test"]) == (["a.en", "a.fr"], 0.1, 20)
    assert options["languages"] == ("en", "fr")
    assert parse_arguments([config()]).data.load_options()["source"] == "cldr:en-fr"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.d_modle=1", r"the command line: unknown key 'model.d_modle'; did you mean 'model.d_model'"),
        ("--model.d_model=big", r"the command line: model: .*field 'd_model'.*expected int"),
        ("--model.vocab_size=3", r"model.vocab_size \(3\) is smaller than the tokenizer's"),
        ("--model.model_type=genai_rn", r"unknown model.model_type 'genai_rn'; did you mean 'genai_rnn'"),
        ("--model={hiden_size: 3, model_type: genai_rnn}", r"unknown key 'model.(hiden_size|d_model|d_ff)'"),
    ],
)
def test_a_wrong_field_of_the_model_is_an_error_that_names_it(config, tokenizer, option, message):
    with pytest.raises(ValueError, match=message):
        build_config(parse_arguments([config(), option]), tokenizer, tokenizer)


def test_a_misspelt_field_of_our_own_config_is_refused(config, tokenizer):
    arguments = parse_arguments([config("model: {model_type: genai_rnn, hiden_size: 8}\noutput_dir: x\n")])
    with pytest.raises(
        ValueError, match=r"config\.yaml: unknown key 'model\.hiden_size'; did you mean 'model\.hidden_size'"
    ):
        build_config(arguments, tokenizer, tokenizer)


def test_the_tokenizers_decide_sizes_and_special_ids(config, tokenizer):
    built = build_config(parse_arguments([config()]), tokenizer, tokenizer)
    assert (built.vocab_size, built.d_model) == (len(tokenizer), 32)
    assert (built.pad_token_id, built.eos_token_id, built.decoder_start_token_id) == (0, 2, 1)


def test_two_vocabularies_need_a_config_with_two(config, tokenizer):
    other = train_tokenizer(["abcdefghijklmnop"], kind="char", vocab_size=40)
    with pytest.raises(ValueError, match="separate_vocabularies"):
        build_config(parse_arguments([config()]), tokenizer, other)
    text = "model: {model_type: genai_rnn, hidden_size: 8}\noutput_dir: x\n"
    built = build_config(parse_arguments([config(text)]), tokenizer, other)
    assert (built.source_vocab_size, built.vocab_size) == (len(tokenizer), len(other))
    text = "model: {model_type: marian, d_model: 16}\noutput_dir: x\n"
    built = build_config(parse_arguments([config(text)]), tokenizer, other)
    assert (built.vocab_size, built.decoder_vocab_size) == (len(tokenizer), len(other))
    assert not built.share_encoder_decoder_embeddings


def test_lengths_beyond_the_positions_of_the_model_are_refused(config, tokenizer):
    text = "model: {model_type: bart, d_model: 16, max_position_embeddings: 32}\noutput_dir: x\n"
    with pytest.raises(ValueError, match=r"max_source_length \(128\) must be at most .*\(32\)"):
        build_config(parse_arguments([config(text)]), tokenizer, tokenizer)


def test_every_shipped_config_is_read_without_an_error(tokenizer):
    from hf_genai.training import recipes_dir

    paths = sorted((recipes_dir() / "configs" / "train_seq2seq").glob("*.yaml"))
    assert {path.stem for path in paths} >= {
        f"{family}_{size}" for family in ("rnn", "t5") for size in ("tiny", "small", "base")
    }
    for path in paths:
        assert load_yaml(path)["recipe"] == path.parent.name
        build_config(parse_arguments([str(path), "--output_dir", "x", "--use_cpu"]), tokenizer, tokenizer)


def test_sizes_that_just_fit_are_taken_and_padding_starts_what_has_no_start_token():
    tokenizer = train_tokenizer(["a text"] * 2, vocab_size=300)
    tokenizer.bos_token = None
    fields = {"model_type": "genai_t5", "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    arguments = SimpleNamespace(
        model=SimpleNamespace(model=fields, model_name_or_path=None),
        data=SimpleNamespace(max_source_length=16, max_target_length=16),
        where={},
    )
    config = build_config(arguments, tokenizer, tokenizer)
    assert (config.vocab_size, config.decoder_start_token_id) == (len(tokenizer), tokenizer.pad_token_id)


def test_a_bare_no_of_fine_tuning_is_one_too_and_an_unknown_strategy_is_named(config):
    base = "task: classification\nmodel_name_or_path: y\noutput_dir: x\n"
    text = f"{base}eval_strategy: no\nload_best_model_at_end: false\n"
    assert parse_finetune_arguments([config(text)]).training.eval_strategy == "no"
    for given, message in (("eval_strategy: never", "eval_strategy"), ("save_strategy: [never]", "save_strategy")):
        with pytest.raises(ValueError, match=rf"config.yaml: {message}.*"):
            parse_finetune_arguments([config(f"{base}{given}\n")])
    with pytest.raises(ValueError, match="lr_scheduler_type"):
        parse_finetune_arguments([config(f"{base}lr_scheduler_type: sometimes\n")])
