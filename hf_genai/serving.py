"""transformers' own OpenAI-style server, for our models.

`transformers serve` looks a model's class up by its name in the module `transformers`, where ours are not. The server
is otherwise as it is: chat and text completions, streaming, continuous batching.
"""

import functools
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from .files import read_json
from .model_folder import check_json
from .private_names import stop_serving
from .registry import FAMILIES, load

NEEDS = ("fastapi", "openai", "pydantic", "uvicorn")


def check_packages() -> None:
    """Raise ImportError, naming the extra, unless all is there that the server needs."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise ImportError(f"serving needs {', '.join(missing)}: pip install 'hf_genai[serve]'")


def check_model(folder: str) -> None:
    """Refuse what the server would load and then fail to answer with.

    Args:
        folder: a model on disk; anything else is left to the server, which fetches it.

    Raises:
        ValueError: if the folder holds an encoder-decoder or an encoder, or a JSON file that cannot be read.
    """
    config = Path(folder) / "config.json"
    if not config.is_file():
        return
    check_json(Path(folder))
    architecture = (read_json(config).get("architectures") or ["no class"])[0]
    if architecture.startswith("Genai") and not architecture.endswith("ForCausalLM"):
        raise ValueError(
            f"{folder} holds a {architecture}: the server continues texts, for which it takes a ...ForCausalLM; "
            "`hf-genai generate` and hf_genai.pipeline run encoder-decoders"
        )


def make_visible() -> None:
    """Put our model classes where transformers' server looks for them: into the module `transformers`."""
    import transformers  # noqa: F401 (so that it is there)

    # an earlier reference can be another object than the module that the server imports
    module = sys.modules["transformers"]
    for family, (_, config_class, _) in FAMILIES.items():
        for name in set(load(family, config_class).auto_classes.values()):
            if not hasattr(module, name):
                setattr(module, name, load(family, name))


def _chats_as_text(given: str | None) -> str:
    """Return the server's defaults for chat templates (JSON): control tokens in messages are text."""
    options = json.loads(given) if given else {}
    return json.dumps({"sanitize_control_tokens": True, **options}) if isinstance(options, dict) else str(given)


def serve(argv: list[str]) -> None:
    """Run the server with the options of `transformers serve` until it is stopped.

    Raises:
        ImportError: if a package of the extra `serve` is missing.
        ValueError: if the model cannot be served.
    """
    check_packages()
    for word in argv:  # the model may stand behind options
        check_model(word)
    import typer
    from transformers.cli.serve import Serve

    class Server(Serve):
        @functools.wraps(Serve.__init__)  # type: ignore[misc]
        def __init__(self, *args, **kwargs):
            kwargs["chat_template_kwargs"] = _chats_as_text(kwargs.get("chat_template_kwargs"))
            try:
                super().__init__(*args, **kwargs)  # returns, or raises KeyboardInterrupt, when it is stopped
            finally:
                # else the worker of continuous batching keeps the process alive
                stop_serving(self)

    make_visible()
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(help=Serve.__doc__)(Server)
    app(argv, standalone_mode=False, prog_name="hf-genai serve")
