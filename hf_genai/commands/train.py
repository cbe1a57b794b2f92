"""`hf-genai demo` and `hf-genai train`: run a recipe, and say what came out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import EMPTY


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
    echo_results(run_recipe(config, [*overrides, *context.args]))


def train(context: typer.Context, config: Annotated[str | None, typer.Argument(metavar="CONFIG")] = None) -> None:
    """Train by a config: a YAML file, or the name of one that comes with hf_genai (rnn_tiny, gpt_tiny, qa, ...).

    \b
    Any key of the config can be given as an option and then wins over the file.
    hf-genai train rnn_tiny --output_dir my_model
    hf-genai train rnn_small --data pairs.tsv --source_column en --target_column fr --output_dir my_model
    hf-genai train classification --data reviews.csv --output_dir my_model
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
        echo_results(results)


def find_config(name: str) -> Path:
    """Return the YAML file that `name` means: a path, or the name of a config that comes with hf_genai.

    Raises:
        ValueError: if there is none, or several.
    """
    from ..training import shipped_configs

    if Path(name).suffix in (".yaml", ".yml"):
        if Path(name).is_file():
            return Path(name)
        raise ValueError(f"config: there is no file {name}")
    shipped = shipped_configs()
    found = [each for each, path in shipped.items() if name in (each, path.stem, f"{path.parent.name}/{path.stem}")]
    if len(found) > 1:
        raise ValueError(f"config: several recipes have a {name}; name one of {', '.join(found)}")
    if not found:
        raise ValueError(f"config must be a .yaml file or one of {', '.join(shipped)}, got {name!r}")
    return shipped[found[0]]


def run_recipe(config: Path, argv: list[str]) -> dict[str, Any]:
    """Run the recipe that the config's key `recipe`, else its folder's name, stands for."""
    from ..training import load_recipe, recipes_dir
    from ..training.launch import end_group
    from ..training.parsing import load_yaml

    known = sorted(path.name for path in (recipes_dir() / "configs").iterdir())
    name = load_yaml(config).get("recipe", config.resolve().parent.name)
    if name not in known:
        problem = f"recipe is {name!r}" if "recipe" in load_yaml(config) else "the key `recipe` is missing"
        raise ValueError(f"{config}: {problem}; write `recipe: {' or '.join(known)}`")
    results = load_recipe(name).main([str(config), *argv])
    end_group()
    return results


def echo_results(results: dict[str, Any]) -> None:
    """Say what came out of a training and what can be done with it."""
    folder = Path(results["output_dir"])
    if "bleu" not in results:  # no translator
        scores = results.get("scores") or {name: results[name] for name in ("loss", "perplexity") if name in results}
        typer.echo("\n" + " " * 32 + "".join(f"{name.replace('_', ' '):>14}" for name in scores))
        for label, row in {"this model": scores, **results.get("baselines", {})}.items():
            cells = (f"{row[name]:14,.3f}" if name in row else " " * 14 for name in scores)
            typer.echo(f"{label:32}{''.join(cells)}")
        typer.echo(f"{results['parameters']:,} parameters, {results['train_seconds']:.0f} s of training\n")
        for given, _, found in results["samples"][:3]:
            typer.echo(f"  {' '.join(given.split())[-100:]}\n    -> {' '.join(found.split())[:100] or EMPTY}")
        typer.echo(f"\nIn {folder}: the model, its card (README.md) and every figure (results.json)")
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
        typer.echo(f"  {sample['source']}\n    -> {sample['output'] or EMPTY}{mark}")
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
    text = results["samples"][0]["source"] if results["samples"] else "TEXT"
    typer.echo(
        f'\nNext:\n  hf-genai generate {folder} "{text}"\n  hf-genai attend {folder} "{text}"\n'
        f"  hf-genai push {folder} YOUR_NAME/{folder.name} --dry_run"
    )
