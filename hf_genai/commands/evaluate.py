"""`hf-genai evaluate`: score a trained translator."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..files import read_json
from .options import BatchSize, Beams, Model, NewTokens, Threads, Trust, only_given, open_model


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
        str | None,
        typer.Option(
            help="train, validation, test, or all that there is, held out or not; by default all of files that the "
            "model was not trained on, else test"
        ),
    ] = None,
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
    bleu_tokenize: Annotated[
        str | None,
        typer.Option(
            "--bleu_tokenize",
            "--bleu-tokenize",
            help="sacreBLEU's tokenizer for BLEU: 13a, zh, ja-mecab, ko-mecab, char, ...; by default that of the "
            "target language, as in training",
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
    hf-genai evaluate my_model --data held_out.parquet --source_column en --target_column fr --num_beams 5
    With the --data, --test_data, ... and --seed of a training, the very pairs are scored that it held out.
    Bad, double and held-out rows are not scored; "left_out" counts them.
    """
    if output is not None and output.exists() and not force:
        raise ValueError(f"output: {output} would be overwritten; give --force or another --output")
    from ..evaluation.bleu_tokenizers import check_bleu_tokenizer, choose_bleu_tokenizer
    from ..training.arguments import DataArguments
    from ..training.results import pairs_of_split, score_model

    if bleu_tokenize is not None:
        check_bleu_tokenizer(bleu_tokenize)
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
    if split is None:
        held_out = validation_data is not None or test_data is not None
        split = "test" if held_out or not _is_new(data, model) else "all"
    sources, references, training_targets, left_out, languages = pairs_of_split(
        split, max_samples, seed=seed, **chosen
    )
    tokenizer = choose_bleu_tokenizer(bleu_tokenize, languages, training_targets)
    seq2seq, tokenizers = open_model(model, num_threads, trust_remote_code)
    options = only_given(num_beams=num_beams, max_new_tokens=max_new_tokens, max_source_length=max_source_length)
    scores = score_model(
        *(seq2seq, tokenizers, sources, references, training_targets),
        bleu_tokenizer=tokenizer,
        batch_size=batch_size,
        **options,
    )
    scores.pop("predictions")
    typer.echo(f"split {split}: {len(sources):,} pairs are scored", err=True)
    what = {"model": model, "data": chosen["source"], "split": split, "left_out": left_out}
    text = json.dumps({**what, **options, **scores}, indent=2, ensure_ascii=False)
    typer.echo(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


def _is_new(data: list[str], model: str) -> bool:
    """Return whether the data is files, without a test split, and none of those that the model was trained on."""
    from ..data.readers import files_of_folder

    paths = [Path(name).expanduser() for name in data]
    if not all(path.exists() for path in paths):
        return False
    if any(path.is_dir() and "test" in (files_of_folder(path) or ("test",)) for path in paths):
        return False
    results = Path(model) / "results.json"
    trained_on = read_json(results).get("settings", {}).get("data", []) if results.is_file() else []
    known = {Path(name).name for name in ([trained_on] if isinstance(trained_on, str) else trained_on)}
    return not any(path.name in known for path in paths)
