"""`hf-genai convert`: weights traded with transformers."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="folder of a model, or its name on the Hub")],
    target: Annotated[Path, typer.Argument(metavar="TARGET_FOLDER", help="new folder for the converted model")],
    to: Annotated[str | None, typer.Option(help="transformers or hf_genai; by default what SOURCE is not")] = None,
    auto_class: Annotated[
        str | None,
        typer.Option("--auto_class", "--auto-class", help="load with this head; by default the one that it names"),
    ] = None,
) -> None:
    """Convert BERT, RoBERTa, DistilBERT, GPT-2, Llama, Mistral or T5 to our classes, or one of ours back.

    \b
    hf-genai convert gpt2 my_gpt
    hf-genai convert bert-base-uncased my_classifier --auto_class AutoModelForSequenceClassification
    hf-genai convert my_gpt my_gpt2 --to transformers          for any engine that knows GPT-2
    Weights, configuration, generation settings and tokenizer are written. Only safetensors are read.
    """
    from ..conversion import convert_folder
    from ..model_folder import opening

    with opening(source):
        model = convert_folder(source, target, to=to, auto_class=auto_class)
    typer.echo(f"wrote {target}: {type(model).__name__}, {model.num_parameters():,} parameters, {model.dtype}")
