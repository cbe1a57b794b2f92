"""`hf-genai push`: publish a trained model."""

from pathlib import Path
from typing import Annotated

import typer


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
    from ..hub import push as push_to_hub

    typer.echo(push_to_hub(model, repo, private=private, dry_run=dry_run))
