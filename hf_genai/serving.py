"""transformers' own OpenAI-style server, for our models.

`transformers serve` looks a model's class up by its name in the module `transformers`, where ours are not. It
gets a front (`serving_front`), and answers with one model: chat and text completions, streaming, continuous batching.
"""

import json
import logging
import sys
import threading
from dataclasses import Field, fields, replace
from importlib.util import find_spec
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

from .files import parse_json, read_json
from .model_folder import check_json
from .private_names import end_process, model_served, stop_serving
from .registry import FAMILIES, load

NEEDS = ("fastapi", "openai", "pydantic", "uvicorn")
PAGED_AT_ONCE = 16  # requests that continuous batching computes together
END_SECONDS = 1.5
HELP = """Answer OpenAI-style requests with one model, within limits.

    \b
    POST /v1/chat/completions    chats, at once or streamed
    POST /v1/completions         texts that go on from a prompt
    GET  /v1/models, /health     the model's name; whether the server is well

    A request that asks for more than the limits is refused with status 4xx and the reason.
    """


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
        ValueError: if the folder holds an encoder-decoder or an encoder, not the weights of its model, or a JSON file
            that cannot be read.
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
    from .loading import check_folder

    check_folder(folder)


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
    options = parse_json(given, where="--chat_template_kwargs") if given else {}
    return json.dumps({"sanitize_control_tokens": True, **options}) if isinstance(options, dict) else str(given)


def serve(argv: list[str]) -> None:
    """Run the server with the options of `transformers serve` and those of `Limits` until it is stopped.

    Raises:
        ImportError: if a package of the extra `serve` is missing.
        ValueError: if there is no model, or it cannot be served.
    """
    check_packages()
    for word in argv:  # the model may stand behind options
        check_model(word)
    import typer
    from transformers.cli.serve import Serve

    from .serving_front import Limits

    class Server(Serve):
        """transformers' server behind our front."""

        def __init__(self, limits: Limits, **options: Any):
            self.limits, self.options = limits, options
            super().__init__(**options, non_blocking=True)

        def start_server(self) -> None:
            """Run until the server is stopped, in the place of transformers' thread."""
            put_front_before(self, self.limits, self.options)
            try:
                self.server.run()
            finally:
                # else the worker of continuous batching keeps the process alive
                stop_serving(self)

    def command(force_model: str | None = None, **options: Any) -> None:
        if force_model is None:
            raise ValueError("a model is missing: hf-genai serve MODEL")
        limits = Limits(**{field.name: options.pop(field.name) for field in fields(Limits)})
        options["chat_template_kwargs"] = _chats_as_text(options.get("chat_template_kwargs"))
        Server(limits, force_model=force_model, **options)

    own = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=_option(field))
        for field in fields(Limits)
    ]
    theirs = [one for one in signature(Serve.__init__).parameters.values() if one.name not in ("self", "non_blocking")]
    command.__signature__ = Signature(theirs + own)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in theirs + own}
    make_visible()
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(help=HELP)(command)
    app(argv, standalone_mode=False, prog_name="hf-genai serve")


def _option(field: Field) -> Any:
    import typer

    return Annotated[type(field.default), typer.Option(help=field.metadata["help"])]


def put_front_before(serve: Any, limits: Any, options: dict[str, Any]) -> None:
    """Put the front before the server that a `Serve` has made: limits, turns, answers to bad requests, and an end.

    Args:
        serve: a `transformers.cli.serve.Serve` whose server does not run yet.
        options: those that it was made with.
    """
    from fastapi import HTTPException

    from .serving_front import Front, Protocol, Refused

    async def refuse(request: Any, error: Any) -> Any:
        status, reason = getattr(error, "status_code", 400), getattr(error, "detail", error)
        return Refused(status, str(reason)).response

    async def fail(request: Any, error: Any) -> Any:
        return Refused(500, f"{type(error).__name__}: {error}").response

    config = serve.server.config
    for kind, handler in ((HTTPException, refuse), (ValueError, refuse), (Exception, fail)):
        config.app.add_exception_handler(kind, handler)
    model, processor = model_served(serve)
    paged = bool(options.get("continuous_batching"))
    config.app = Front(
        config.app,
        name=options["force_model"],
        model=model,
        processor=processor,
        limits=replace(limits, max_beams=1) if paged else limits,
        chat_template_kwargs=json.loads(options["chat_template_kwargs"]),
        at_once=PAGED_AT_ONCE if paged else 1,
    )
    config.http, config.ws, config.timeout_graceful_shutdown = Protocol, "none", 1
    handle_exit = serve.server.handle_exit

    def end_soon(number: int, frame: Any) -> None:
        # whatever still computes or is taken down: nothing is lost with it, and what is cut off need not be told
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        end = threading.Timer(END_SECONDS, end_process, [128 + number])
        end.daemon = True
        end.start()
        handle_exit(number, frame)

    serve.server.handle_exit = end_soon
