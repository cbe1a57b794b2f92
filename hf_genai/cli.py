"""The command `hf-genai`: what it offers, and how it ends. Each command is in a file of `commands`.

Imports of torch and transformers stand inside the commands' functions: `hf-genai --help` answers without them.
"""

import logging
import sys
from typing import Annotated, Any

import typer

from .commands import convert, doctor, evaluate, push, serve, train, translate
from .private_names import TORCHAO_LOGGERS

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Train, try, look into and publish sequence-to-sequence models.

    \b
    Start here:  hf-genai demo
    Then:        hf-genai generate hf_genai_demo "in 3 days"
                 hf-genai attend hf_genai_demo "Monday, May 4, 2026"
                 hf-genai train rnn_small --data my.csv --source_column en --target_column fr --output_dir my_model
                 hf-genai push my_model my_name/my_model --dry_run

    Options may be written with _ or -. Errors are one line; `hf-genai --debug COMMAND ...` shows where they come from.
    """,
)
# What a command does not know goes on: to the recipe, which knows all keys of a config, or to transformers' server.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
NO_OWN_HELP: dict[str, Any] = {**PASS_ON, "help_option_names": []}


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


for function, short_help, settings in (
    (train.demo, "Train a small GRU translator, in about two minutes.", PASS_ON),
    (train.train, "Train by a config of yours or ours.", NO_OWN_HELP),
    (translate.generate, None, None),
    (translate.attend, "Draw what the decoder looked at.", None),
    (evaluate.evaluate, "Score translations: BLEU, chrF, exact match.", None),
    (convert.convert, "Trade weights with the classes of transformers.", None),
    (push.push, "Publish a trained model on the Hub.", None),
    (serve.serve, "Answer OpenAI-style requests with a trained language model.", NO_OWN_HELP),
    (doctor.doctor, "Print versions, CPU, devices, and which kernels run here.", None),
):
    app.command(short_help=short_help, context_settings=settings)(function)


def main(argv: list[str] | None = None) -> None:
    """Run a command; end the process with 0, 1 (it failed), 2 (wrong use) or 128 + signal."""
    hide_what_an_unused_torchao_says()
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


def hide_what_an_unused_torchao_says() -> None:
    """Drop the four lines that torchao prints at import: transformers imports torchao wherever it is installed.

    Dropped are the failed loads of its CUDA kernels under a torch without CUDA, and torch's advice about Enums to
    torchao's authors. Whatever else the two log is shown.
    """

    def is_of_use(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.name == "torchao":
            torch: Any = sys.modules.get("torch")
            return not message.startswith("Failed to load ") or torch is None or torch.version.cuda is not None
        return "is an Enum subclass and is now natively supported" not in message

    for name in TORCHAO_LOGGERS:
        logging.getLogger(name).addFilter(is_of_use)


def fail(message: str, code: int) -> int:
    """Say what went wrong, in one line."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
