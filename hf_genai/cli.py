"""The command `hf-genai`: demo, train, generate, attend, evaluate, push.

Imports of torch and transformers stand inside the commands: `hf-genai --help` answers without them.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Train, try, look into and publish sequence-to-sequence models.

    \b
    Start here:  hf-genai demo
    Then:        hf-genai generate hf_genai_demo "in 3 days"
                 hf-genai attend hf_genai_demo "Monday, 4 May 2026"
                 hf-genai train rnn_small --data my.csv --source_column en --target_column fr --output_dir my_model
                 hf-genai push my_model my_name/my_model --dry_run

    Options may be written with _ or -. Errors are one line; `hf-genai --debug COMMAND ...` shows where they come from.
    """,
)
# What a command does not know goes on to the recipe, which knows all keys of a config.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

Model = Annotated[str, typer.Argument(metavar="MODEL", help="folder of a trained model, or its name on the Hub")]
Beams = Annotated[
    int | None, typer.Option("--num_beams", "--num-beams", min=1, help="beam width; by default the model's own")
]
NewTokens = Annotated[
    int | None, typer.Option("--max_new_tokens", "--max-new-tokens", min=1, help="longest output, in tokens")
]
BatchSize = Annotated[int, typer.Option("--batch_size", "--batch-size", min=1, help="texts translated together")]
# One thread: the matrices are small, and two threads on a busy machine can be forty times slower than one.
Threads = Annotated[
    int, typer.Option("--num_threads", "--num-threads", min=0, help="torch threads; 0: torch's choice")
]
Trust = Annotated[
    bool, typer.Option("--trust_remote_code", "--trust-remote-code", help="run code that the model's folder brings")
]


def show_version(asked: bool) -> None:
    """Print the version and stop."""
    if asked:
        from . import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=show_version, is_eager=True)
    ] = False,
) -> None: ...


@app.command(context_settings=PASS_ON, short_help="Train a small GRU translator, in about two minutes.")
def demo(
    context: typer.Context,
    output_dir: Annotated[
        Path, typer.Option("--output_dir", "--output-dir", help="new folder for all it makes")
    ] = Path("hf_genai_demo"),
    language_pair: Annotated[
        str, typer.Option("--language_pair", "--language-pair", help="source-target, as in Unicode CLDR: en-fr, de-ja")
    ] = "en-fr",
    seed: Annotated[int, typer.Option(help="same seed, same run")] = 42,
) -> None:
    """Train a small GRU translator with attention on one CPU core in about two minutes, and show what it learned.

    \b
    The pairs are made at run time from Babel: dates, amounts, lists of countries and so on. Nothing is downloaded.
    hf-genai demo
    hf-genai demo --language_pair de-es --output_dir german_spanish
    hf-genai demo --model.hidden_size 128 --overwrite_output_dir true
    Further options are the keys of config rnn_tiny.
    """
    config = find_config("rnn_tiny")
    overrides = ["--output_dir", str(output_dir), "--data", f"cldr:{language_pair}", "--seed", str(seed)]
    results = run_recipe(config, [*overrides, *context.args])
    echo_results(results, output_dir)


@app.command(context_settings={**PASS_ON, "help_option_names": []}, short_help="Train by a config of yours or ours.")
def train(context: typer.Context, config: Annotated[str | None, typer.Argument(metavar="CONFIG")] = None) -> None:
    """Train by a config: a YAML file, or the name of one that comes with hf_genai (rnn_tiny, rnn_small, rnn_base).

    \b
    Any key of the config can be given as an option and then wins over the file.
    hf-genai train rnn_tiny --output_dir my_model
    hf-genai train rnn_small --data pairs.tsv --source_column en --target_column fr --output_dir my_model
    hf-genai train my_config.yaml --learning_rate 1e-3 --model.hidden_size 512
    hf-genai train my_config.yaml --resume_from_checkpoint true     go on after Ctrl-C
    hf-genai train rnn_tiny --help                                  every key, with its default
    """
    if config is None or config in ("-h", "--help"):
        typer.echo(context.get_help())
        return
    if config.startswith("-"):
        raise ValueError(f"CONFIG comes first, before {config}: hf-genai train CONFIG {config} ...")
    path = find_config(config)
    results = run_recipe(path, context.args)
    if results:  # not in a process of a distributed run that is not the first
        from .training.arguments import parse_arguments

        echo_results(results, Path(str(parse_arguments([str(path), *context.args]).training.output_dir)))


@app.command()
def generate(
    model: Model,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="source texts; else standard input")
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input_file", "--input-file", help="file with a source text on each line")
    ] = None,
    num_beams: Beams = None,
    max_new_tokens: NewTokens = None,
    batch_size: BatchSize = 32,
    num_threads: Threads = 1,
    trust_remote_code: Trust = False,
) -> None:
    """Translate texts: one line out for each in.

    \b
    hf-genai generate hf_genai_demo "in 3 days" "France and Spain"
    hf-genai generate hf_genai_demo --input_file english.txt --num_beams 5 > french.txt
    cat english.txt | hf-genai generate hf_genai_demo
    """
    sources = read_texts(texts, input_file)
    seq2seq, tokenizers = open_model(model, num_threads, trust_remote_code)
    from .evaluation.generation import generate_texts

    options = only_given(num_beams=num_beams, max_new_tokens=max_new_tokens)
    for text in generate_texts(seq2seq, tokenizers[0], sources, tokenizers[1], batch_size=batch_size, **options):
        typer.echo(" ".join(text.splitlines()))


@app.command(short_help="Draw what the decoder looked at.")
def attend(
    model: Model,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="source text")],
    output: Annotated[Path, typer.Option("--output", "-o", help="written are OUTPUT.png and OUTPUT.html")] = Path(
        "attention"
    ),
    force: Annotated[bool, typer.Option("--force", help="overwrite files that are there")] = False,
    num_beams: Beams = None,
    num_threads: Threads = 1,
    trust_remote_code: Trust = False,
) -> None:
    """Draw what the decoder looked at while it wrote each word: a picture and a page to open in a browser.

    \b
    hf-genai attend hf_genai_demo "Monday, 4 May 2026"
    hf-genai attend hf_genai_demo "in 3 days" --output in_3_days --num_beams 5
    """
    stem = output.with_suffix("") if output.suffix in (".png", ".html") else output
    there = [str(path) for path in (stem.with_name(stem.name + end) for end in (".png", ".html")) if path.exists()]
    if there and not force:
        raise ValueError(f"output: {' and '.join(there)} would be overwritten; give --force or another --output")
    seq2seq, tokenizers = open_model(model, num_threads, trust_remote_code)
    from .training.results import draw_attention

    files, translation = draw_attention(seq2seq, tokenizers, text, stem, **only_given(num_beams=num_beams))
    typer.echo(translation)
    for path in files:
        typer.echo(f"wrote {path}")


@app.command(short_help="Score translations: BLEU, chrF, exact match.")
def evaluate(
    model: Model,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="as in training: cldr:en-fr (Unicode CLDR, any two languages), jupyterlab:fr-FR (JupyterLab's texts; "
            "needs hf_genai[jupyterlab]), a file (again for two texts), a Hub data set",
        ),
    ],
    source_column: Annotated[str, typer.Option("--source_column", "--source-column")] = "source",
    target_column: Annotated[str, typer.Option("--target_column", "--target-column")] = "target",
    split: Annotated[
        str, typer.Option(help="train, validation, test, or all that there is, held out or not")
    ] = "test",
    validation_data: Annotated[
        str | None, typer.Option("--validation_data", "--validation-data", help="as in training")
    ] = None,
    test_data: Annotated[
        str | None,
        typer.Option("--test_data", "--test-data", help="as in training: file, number or share of test pairs"),
    ] = None,
    train_size: Annotated[int | None, typer.Option("--train_size", "--train-size", help="as in training")] = None,
    max_length_chars: Annotated[
        int,
        typer.Option("--max_length_chars", "--max-length-chars", min=1, help="pairs with a longer side are left out"),
    ] = 1000,
    data_config: Annotated[
        str | None, typer.Option("--data_config", "--data-config", help="configuration of a Hub data set")
    ] = None,
    data_revision: Annotated[
        str | None, typer.Option("--data_revision", "--data-revision", help="branch, tag or commit of a Hub data set")
    ] = None,
    max_source_length: Annotated[
        int | None,
        typer.Option(
            "--max_source_length", "--max-source-length", min=1, help="source tokens; by default what the model takes"
        ),
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option("--max_samples", "--max-samples", min=1, help="the first so many pairs of the split")
    ] = None,
    seed: Annotated[int, typer.Option(help="that of the training, to score on its test pairs")] = 42,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="also write the JSON to this file")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite a file that is there")] = False,
    num_beams: Beams = None,
    max_new_tokens: NewTokens = None,
    batch_size: BatchSize = 32,
    num_threads: Threads = 1,
    trust_remote_code: Trust = False,
) -> None:
    """Score translations: BLEU, chrF, exact match, and the same for two baselines, as JSON.

    \b
    hf-genai evaluate hf_genai_demo --data cldr:en-fr
    hf-genai evaluate my_model --data held_out.parquet --split all --source_column en --target_column fr --num_beams 5
    With the --data, --test_data, ... and --seed of a training, the very pairs are scored that it held out.
    Bad, double and held-out rows are not scored; "left_out" counts them.
    """
    if output is not None and output.exists() and not force:
        raise ValueError(f"output: {output} would be overwritten; give --force or another --output")
    from .training.arguments import DataArguments
    from .training.results import pairs_of_split, score_model

    chosen = DataArguments(
        data=data,
        source_column=source_column,
        target_column=target_column,
        validation_data=validation_data,
        test_data=test_data,
        train_size=train_size,
        max_length_chars=max_length_chars,
        data_config=data_config,
        data_revision=data_revision,
    ).load_options()
    sources, references, training_targets, left_out = pairs_of_split(split, max_samples, seed=seed, **chosen)
    seq2seq, tokenizers = open_model(model, num_threads, trust_remote_code)
    options = only_given(num_beams=num_beams, max_new_tokens=max_new_tokens, max_source_length=max_source_length)
    scores = score_model(seq2seq, tokenizers, sources, references, training_targets, batch_size=batch_size, **options)
    scores.pop("predictions")
    what = {"model": model, "data": chosen["source"], "split": split, "left_out": left_out}
    text = json.dumps({**what, **options, **scores}, indent=2, ensure_ascii=False)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    typer.echo(text)


@app.command(short_help="Publish a trained model on the Hub.")
def push(
    model: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder of a trained model")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="name on the Hub: user/model")],
    private: Annotated[bool, typer.Option("--private", help="for you alone")] = False,
    dry_run: Annotated[bool, typer.Option("--dry_run", "--dry-run", help="list what would go, send nothing")] = False,
) -> None:
    """Publish a trained model: weights, code, tokenizer, card. Log in by `hf auth login` before.

    \b
    hf-genai push hf_genai_demo my_name/gru-en-fr --dry_run
    hf-genai push hf_genai_demo my_name/gru-en-fr --private
    """
    from .hub import push as push_to_hub

    typer.echo(push_to_hub(model, repo, private=private, dry_run=dry_run))


def find_config(name: str) -> Path:
    """Return the YAML file that `name` means: a path, or the stem of a config that comes with hf_genai."""
    from .training import recipes_dir

    if Path(name).suffix in (".yaml", ".yml"):
        if Path(name).is_file():
            return Path(name)
        raise ValueError(f"config: there is no file {name}")
    shipped = {path.stem: path for path in sorted((recipes_dir() / "configs").rglob("*.yaml"))}
    if name not in shipped:
        raise ValueError(f"config must be a .yaml file or one of {', '.join(shipped)}, got {name!r}")
    return shipped[name]


def run_recipe(config: Path, argv: list[str]) -> dict[str, Any]:
    """Run the recipe that the config's key `recipe`, else its folder's name, stands for."""
    from .training import load_recipe, recipes_dir
    from .training.parsing import load_yaml

    known = sorted(path.name for path in (recipes_dir() / "configs").iterdir())
    name = load_yaml(config).get("recipe", config.resolve().parent.name)
    if name not in known:
        problem = f"recipe is {name!r}" if "recipe" in load_yaml(config) else "the key `recipe` is missing"
        raise ValueError(f"{config}: {problem}; write `recipe: {' or '.join(known)}`")
    return load_recipe(name).main([str(config), *argv])


def only_given(**options: Any) -> dict[str, Any]:
    """Return the options that have a value: the model's own settings decide about the others."""
    return {key: value for key, value in options.items() if value is not None}


def read_texts(texts: list[str] | None, input_file: Path | None) -> list[str]:
    """Return the texts given, or the lines of the file, or of standard input, which are UTF-8.

    A line ends at a line feed alone: str.splitlines also cuts at U+2028 and the like, which stand inside of texts.
    """
    if texts and input_file:
        raise ValueError("input_file: give texts or a file, not both")
    if texts:
        return texts
    text = (input_file.read_bytes() if input_file else sys.stdin.buffer.read()).decode("utf-8-sig")
    if not text:
        raise ValueError(f"texts: {input_file or 'standard input'} is empty; there is nothing to translate")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def open_model(name: str, num_threads: int, trust_remote_code: bool) -> tuple[Any, Any]:
    """Return the model, ready to generate, and its two tokenizers."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    from .data import load_tokenizers

    if num_threads:
        torch.set_num_threads(num_threads)
    model = AutoModelForSeq2SeqLM.from_pretrained(name, trust_remote_code=trust_remote_code).eval()
    tokenizers = load_tokenizers(name, trust_remote_code=trust_remote_code)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizers


def echo_results(results: dict[str, Any], folder: Path) -> None:
    """Say what came out of a training and what can be done with it."""
    if not results:  # a process of a distributed run that is not the first
        return
    typer.echo(f"\n{'':24}{'BLEU':>8}{'chrF':>8}{'exact match':>14}")
    rows = {"this model": results, **results["baselines"]}
    for name, row in rows.items():
        label = name.replace("_", " ")
        typer.echo(f"{label:24}{row['bleu']:8.1f}{row['chrf']:8.1f}{100 * row['exact_match']:12.1f} %")
    typer.echo(
        f"on {results['num_examples']} pairs never seen in training; {results['parameters']:,} parameters, "
        f"{results['train_seconds']:.0f} s of training\n"
    )
    for sample in results["samples"][:6]:
        mark = "" if sample["output"] == sample["reference"] else f"   (reference: {sample['reference']})"
        typer.echo(f"  {sample['source']}\n    -> {sample['output']}{mark}")
    maps = results["attention_maps"]
    pages, pictures = ([name for name in maps if name.endswith(end)] for end in (".html", ".png"))
    typer.echo(f"\nIn {folder}:")
    for name, what in {
        "model.safetensors": "the model; AutoModelForSeq2SeqLM.from_pretrained opens this folder",
        "results.json": "every figure, with versions and the command",
        "README.md": "the model card",
        **dict.fromkeys(pages[:1], "what the decoder looked at, to open in a browser"),
        **dict.fromkeys(pictures[:1], "the same as a picture"),
    }.items():
        typer.echo(f"  {name:24}{what}")
    text = results["samples"][0]["source"]
    typer.echo(
        f'\nNext:\n  hf-genai generate {folder} "{text}"\n  hf-genai attend {folder} "{text}"\n'
        f"  hf-genai push {folder} YOUR_NAME/{folder.name} --dry_run"
    )


def main(argv: list[str] | None = None) -> None:
    """Run a command; end the process with 0, 1 (it failed), 2 (wrong use) or 128 + signal."""
    argv = sys.argv[1:] if argv is None else argv
    debug = argv[:1] == ["--debug"]
    try:
        code = app(argv or ["--help"], standalone_mode=False, prog_name="hf-genai") or 0
    except KeyboardInterrupt:
        code = fail("interrupted", 130)
    except Exception as error:
        if debug:
            raise
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if not isinstance(error, (ValueError, OSError)) and not hasattr(error, "exit_code"):
            message = f"{type(error).__name__}: {message} (hf-genai --debug COMMAND ... shows where)"
        code = fail(message, getattr(error, "exit_code", 2 if isinstance(error, ValueError) else 1))
    sys.exit(code)


def fail(message: str, code: int) -> int:
    """Say what went wrong, in one line."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
