"""`hf-genai serve`: transformers' server with our classes made visible to it."""

import typer


def serve(context: typer.Context) -> None:
    """Answer OpenAI-style requests (chat and text completions, streaming) with a trained language model.

    \b
    hf-genai serve my_gpt --port 8000
    hf-genai serve my_gpt --continuous_batching          requests share a batch and a paged cache
    curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
        -d '{"model": "my_gpt", "prompt": "Once upon", "max_tokens": 20}'
    The options are those of `transformers serve`, and limits (--help). Chat needs a tokenizer with a chat template.
    Packages: pip install 'hf_genai[serve]'
    """
    from ..serving import NEEDS, find_spec
    from ..serving import serve as run_server

    # written with _ or -, as everywhere in this command
    argv = [
        "=".join([name.replace("_", "-"), *value]) if word.startswith("--") else word
        for word in context.args
        for name, *value in [word.split("=", 1)]
    ]
    if "--help" in argv or "-h" in argv:
        typer.echo(context.get_help())
        if any(find_spec(name) is None for name in NEEDS):
            return
        argv = ["--help"]
    run_server(argv)
