"""`hf-genai generate` and `hf-genai attend`: try a trained translator, and look into it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..files import decode
from .options import EMPTY, BatchSize, Beams, Model, NewTokens, Threads, Trust, only_given, open_model


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
    """Translate texts: one line out for each in, a blank one for a blank one.

    \b
    hf-genai generate hf_genai_demo "in 3 days" "France and Spain"
    hf-genai generate hf_genai_demo --input_file english.txt --num_beams 5 > french.txt
    cat english.txt | hf-genai generate hf_genai_demo
    """
    sources = read_texts(texts, input_file)
    seq2seq, tokenizers = open_model(model, num_threads, trust_remote_code)
    from ..evaluation.generation import generate_texts, is_blank

    options = only_given(num_beams=num_beams, max_new_tokens=max_new_tokens)
    outputs = generate_texts(seq2seq, tokenizers[0], sources, tokenizers[1], batch_size=batch_size, **options)
    for text in outputs:
        typer.echo(" ".join(text.splitlines()))
    empty = [str(line) for line, text in enumerate(outputs, 1) if not text.strip() and not is_blank(sources[line - 1])]
    if empty:
        shown = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        typer.echo(f"{len(empty)} of {len(outputs)} outputs are empty: of text {shown}", err=True)


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
    hf-genai attend hf_genai_demo "Monday, May 4, 2026"
    hf-genai attend hf_genai_demo "in 3 days" --output in_3_days --num_beams 5
    """
    if not text.strip():
        raise ValueError(f"text must hold something to translate, not {text!r}")
    stem = output.with_suffix("") if output.suffix in (".png", ".html") else output
    there = [str(path) for path in (stem.with_name(stem.name + end) for end in (".png", ".html")) if path.exists()]
    if there and not force:
        raise ValueError(f"output: {' and '.join(there)} would be overwritten; give --force or another --output")
    seq2seq, tokenizers = open_model(model, num_threads, trust_remote_code)
    from ..training.results import draw_attention

    files, translation = draw_attention(seq2seq, tokenizers, text, stem, **only_given(num_beams=num_beams))
    typer.echo(translation or EMPTY)
    for path in files:
        typer.echo(f"wrote {path}")


def read_texts(texts: list[str] | None, input_file: Path | None) -> list[str]:
    """Return the texts given, or the lines of the file, or of standard input, which are UTF-8.

    A line ends at a line feed alone: str.splitlines also cuts at U+2028 and the like, which stand inside of texts.
    """
    if texts and input_file:
        raise ValueError("input_file: give texts or a file, not both")
    if texts:
        return texts
    where = input_file or "standard input"
    data = input_file.read_bytes() if input_file else sys.stdin.buffer.read()
    text = decode(data.removeprefix(b"\xef\xbb\xbf"), where=f"texts: {where}")
    if not text:
        raise ValueError(f"texts: {where} is empty; there is nothing to translate")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
