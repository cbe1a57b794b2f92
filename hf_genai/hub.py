"""From a trained model to a published one: save it with its card, check it, push it.

    card = CardData(title="English to French dates", summary="...", model_type="genai_rnn")
    save_for_hub("translator", model, tokenizer, card)
    push("translator", "me/translator", dry_run=True)

Nothing heavy is imported until a function needs it.
"""

import ast
import errno
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from .cards import TARGET_TOKENIZER, CardData, name_model, render_card, usage_snippet
from .files import read_text
from .model_folder import (
    CONFIGS,
    TOKENIZER_FILES,
    WEIGHTS,
    check_checkpoint,
    code_files,
    files_to_push,
    foreign_code,
)
from .privacy import clean_card, clean_json, clean_origins, find_private, words_of

__all__ = [
    "CardData",
    "check_checkpoint",
    "files_to_push",
    "find_private",
    "push",
    "render_card",
    "save_for_hub",
    "usage_snippet",
]

logger = logging.getLogger(__name__)


def save_for_hub(
    folder: str | Path,
    model: Any,
    tokenizers: Any,
    card: CardData,
    *,
    attachments: Iterable[str | Path] = (),
    overwrite: bool = False,
) -> Path:
    """Save model, tokenizer(s) and card so that the folder opens anywhere and can be pushed as it is.

    Everything is written and checked in a hidden folder inside; only then the old files make place, config.json last,
    so that neither a full disk nor a kill leaves less than before. Other files of the folder (checkpoints, logs) stay.
    In the card and the attached JSON a home folder becomes "~", a token or the host's name is cut out; a warning says
    so. What the model says, as its labels, stays. Code that a base model or its tokenizer asks for is left out: only
    our own classes go with their code.

    Args:
        model: A transformers model.
        tokenizers: One tokenizer (or processor), or a pair: source in the folder, target in `target_tokenizer/`.
        card: Its `usage` is run on the saved model, without trust in any code but what is imported here, and the
            output recorded; parameters are counted if not given.
        attachments: Files to copy in (results.json, a picture of attention).
        overwrite: Replace a model that the folder holds already.

    Raises:
        FileExistsError: The folder holds a model or a card, and `overwrite` is False.
        OSError: The disk is full; what the folder held is whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (old := _model_entries(folder)) and not overwrite:
        names = ", ".join(path.name for path in old)
        raise FileExistsError(f"folder ({folder}) holds {names} already; choose another, or pass overwrite=True")
    source, target = tokenizers if isinstance(tokenizers, list | tuple) else (tokenizers, tokenizers)
    staging = Path(tempfile.mkdtemp(prefix=".incomplete-save-", dir=folder))  # same file system: moving needs no space
    previous = staging / ".previous"
    try:
        model.save_pretrained(staging)
        source.save_pretrained(staging)
        if target is not source:
            target.save_pretrained(staging / TARGET_TOKENIZER)
        for entry in foreign_code(staging, remove=True):
            logger.warning("code that is not ours was left out: %s", entry)
        said, words = clean_origins(staging), words_of(staging)
        for path in map(Path, attachments):
            shutil.copyfile(path, staging / path.name)
            said += clean_json(staging / path.name, words) if path.suffix == ".json" else []
        if card.parameters is None:
            card = replace(card, parameters=sum(parameter.numel() for parameter in model.parameters()))
        if card.usage and card.usage_output is None:
            card = replace(card, usage_output=_run_usage(card.usage, staging))
        card, replaced = clean_card(replace(card, repo_id=card.repo_id or folder.name), words)
        for line in said + replaced:
            logger.warning("%s", line)
        (staging / "README.md").write_text(render_card(card), "utf-8")
        check_checkpoint(staging)
        _swap(staging, previous, folder)
    except BaseException as error:
        if not (previous.is_dir() and any(previous.iterdir())):  # else moving back failed too: the old files are there
            shutil.rmtree(staging, ignore_errors=True)
        if _disk_is_full(error):
            free = f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB free"
            message = f"no space left to save the model ({free}); what was there before is whole"
            raise OSError(errno.ENOSPC, message, str(folder)) from error
        raise
    shutil.rmtree(staging, ignore_errors=True)
    return folder


def _model_entries(folder: Path) -> list[Path]:
    """Return the files of the model that the folder holds: what a new save replaces."""
    names = CONFIGS | TOKENIZER_FILES | {"README.md", TARGET_TOKENIZER}
    with suppress(OSError, ValueError, SyntaxError):
        names |= set(code_files(folder))  # only code that the old model names: other scripts are the user's
    return sorted(path for path in folder.iterdir() if path.name in names or WEIGHTS.fullmatch(path.name))


def _swap(staging: Path, previous: Path, folder: Path) -> None:
    """Put the staged files in place of the old ones, which go to `previous`; on an error put the old ones back."""
    new = sorted(staging.iterdir(), key=lambda path: path.name == "config.json")  # without it a folder is no model yet
    old = {*_model_entries(folder), *(folder / path.name for path in new if (folder / path.name).exists())}
    previous.mkdir()
    done: list[tuple[Path, Path]] = []
    try:
        for path, place in [(path, previous / path.name) for path in old] + [
            (path, folder / path.name) for path in new
        ]:
            path.rename(place)
            done.append((path, place))
    except BaseException:
        for path, place in reversed(done):
            place.rename(path)
        raise


def _run_usage(code: str, folder: Path) -> str | None:
    """Return what the card's example prints when it is run on the folder; None, with a warning, if it fails.

    Our classes are known here: no code of the folder needs to be trusted, and none is.
    """
    printed = StringIO()
    try:
        tree = ast.parse(name_model(code, str(folder)))
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                node.value = ast.copy_location(ast.Constant(False), node.value)
        with redirect_stdout(printed):
            exec(compile(tree, "the card's example", "exec"), {})
    except Exception as error:  # an example that fails must not cost the trained model
        logger.warning("the card shows no output of its example, which failed: %s: %s", type(error).__name__, error)
        return None
    return printed.getvalue().strip()


def _disk_is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or its cause, is a full disk, quota or size limit; safetensors says so in words only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if re.search(r"\(os error (28|122|27)\)", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    echo: Callable[[str], Any] = print,
) -> str:
    """Publish a saved model in one commit and return its address.

    The example in the card gets `repo_id` as the model's name. Weights and a target tokenizer of an earlier push that
    this model does not have are deleted in the same commit, since they would be loaded in place of the new ones.

    Args:
        folder: As left by `save_for_hub`, or by `save_pretrained`.
        repo_id: "user/name", or "name" for the token's own user.
        private: Make the repository yours alone; refused if it exists and is public.
        dry_run: Check everything and list what would go. Asks no network and needs no token.
        token: None: that of `hf auth login` or HF_TOKEN.
        revision: Branch to commit to, made if missing. None: main.
        create_pr: Open a pull request in place of committing.
        echo: Gets each line of the list.

    Raises:
        ValueError: Not a whole model, something private in a text, code that is not ours, a file that is a link, a
            malformed `repo_id`, no token or a refused one.
        ConnectionError: The Hub was not reached.
    """
    import huggingface_hub as hub
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    from .loading import check_folder

    folder = Path(folder)
    hub.utils.validate_repo_id(repo_id)
    sizes = files_to_push(folder)
    check_checkpoint(folder)
    check_folder(folder)
    if private_lines := find_private(folder):
        raise ValueError(f"folder ({folder}) tells something private, nothing was pushed: {'; '.join(private_lines)}")
    if "README.md" not in sizes:
        logger.warning("%s has no README.md: the model's page will be empty", folder)
    for name, size in sizes.items():
        echo(f"{size:>15,} bytes  {name}")
    address = f"{hub.constants.ENDPOINT}/{repo_id}" + (f"/tree/{revision}" if revision else "")
    if dry_run:
        echo(f"{sum(sizes.values()):>15,} bytes in {len(sizes)} files would go to {address}; nothing was sent")
        return address
    token = token or hub.get_token()
    if not token:
        raise ValueError("token is missing: log in with `hf auth login`, set HF_TOKEN, or pass token=")
    api = hub.HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            raise ValueError(
                f"private ({private}) does not fit {repo_id}, which exists and is public; nothing was pushed"
            )
        if revision and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        operations: list[Any] = [hub.CommitOperationAdd(name, folder / name) for name in sizes if name != "README.md"]
        if "README.md" in sizes:
            operations.append(hub.CommitOperationAdd("README.md", _card_for(folder, repo_id)))
        for name in api.list_repo_files(repo_id, revision=revision):
            if name not in sizes and (WEIGHTS.fullmatch(name) or name.startswith(f"{TARGET_TOKENIZER}/")):
                echo(f"{'deleted there':>21}  {name}")
                operations.append(hub.CommitOperationDelete(name))
        message = commit_message or "Upload model with hf_genai"
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr)
    except hub.errors.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise ValueError(
                f"token was refused by the Hub, it needs the right to write to {repo_id}: {error}"
            ) from error
        raise
    except Exception as error:
        if type(error).__module__.startswith("httpx"):  # the name of the client library changes between versions
            raise ConnectionError(f"{hub.constants.ENDPOINT} was not reached, nothing was pushed: {error}") from error
        raise
    address = f"{hub.constants.ENDPOINT}/{repo_id}" + (f"/tree/{revision}" if revision else "")
    return commit.pr_url if create_pr and commit.pr_url else address


def _card_for(folder: Path, repo_id: str) -> bytes:
    """Return the card with the model's name on the Hub in its example."""
    return name_model(read_text(folder / "README.md"), repo_id).encode()
