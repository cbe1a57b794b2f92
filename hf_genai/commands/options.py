"""What several commands take, and the model that they open."""

from typing import Annotated, Any

import typer

EMPTY = "(empty)"  # said where an output has no text
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


def only_given(**options: Any) -> dict[str, Any]:
    """Return the options that have a value: the model's own settings decide about the others."""
    return {key: value for key, value in options.items() if value is not None}


def open_model(name: str, num_threads: int, trust_remote_code: bool) -> tuple[Any, Any]:
    """Return the model, ready to generate, and its two tokenizers."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    from ..data import load_tokenizers
    from ..loading import load_model
    from ..model_folder import opening

    if num_threads:
        torch.set_num_threads(num_threads)
    with opening(name):
        try:
            model = load_model(AutoModelForSeq2SeqLM, name, trust_remote_code=trust_remote_code).eval()
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            raise ValueError(
                f"{name} holds no encoder-decoder, and this command is for those alone. The model's card (README.md)"
                " shows how it is used; `hf-genai serve` answers with language models"
            ) from error
        tokenizers = load_tokenizers(name, trust_remote_code=trust_remote_code)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizers
