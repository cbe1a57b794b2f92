"""What lies in a model's folder: which files belong on the Hub, whether they are whole, what is private in them."""

import ast
import getpass
import re
import socket
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .cards import TARGET_TOKENIZER
from .files import read_json, read_text

WEIGHTS = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
INCOMPLETE_MARKER = "checkpoint-is-incomplete.txt"  # transformers' own name for it
CONFIGS = {"config.json", "generation_config.json", "adapter_config.json"}
TOKENIZER_FILES = {
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "source.spm", "target.spm", "sentencepiece.bpe.model"),
    *("processor_config.json", "preprocessor_config.json"),
}
_DOCUMENTS = {"README.md", "LICENSE", "results.json"}
_OWN_JSON = {*CONFIGS, *TOKENIZER_FILES, "results.json", "trainer_state.json", "history.json"}
_PICTURES = {".png", ".jpg", ".jpeg", ".svg", ".webp", ".html"}
_TEXT = {".json", ".md", ".txt", ".py", ".html", ".svg", ".jinja", ""}
# a vocabulary is made of the data's words, and a host called "paris" would be found in it
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"}
# names that many machines share tell nothing, and stand in ordinary sentences
_COMMON_NAMES = {"localhost", "host", "computer", "laptop", "desktop", "server", "runner", "root", "user", "admin"}


def check_checkpoint(folder: str | Path) -> None:
    """Read enough of each file to know that it is whole: JSON, headers and lengths of weights, ends of torch archives.

    Works for a saved model and for a Trainer checkpoint, and reads no weights.

    Raises:
        ValueError: Names the file that is missing or broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder ({folder}) does not exist or is not a folder")
    if (folder / INCOMPLETE_MARKER).exists():
        raise ValueError(f"{folder} was not saved to its end: {INCOMPLETE_MARKER} is there")
    check_json(folder)
    _check_weights(folder / name for name in weight_files(folder))
    for path in sorted([*folder.glob("*.pt"), *folder.glob("*.pth")]):
        if not zipfile.is_zipfile(path):  # an archive's table of contents is at its end
            raise ValueError(f"{path} is broken or cut off: the end of the archive is missing")
    if (folder / "optimizer.pt").exists() and not (folder / "trainer_state.json").exists():
        raise ValueError(f"{folder} was not saved to its end: trainer_state.json, written last, is missing")


def check_json(folder: Path) -> None:
    """Refuse JSON of a model, its tokenizers or its training that cannot be read, or is no object; names the file."""
    for path in sorted([*folder.glob("*.json"), *folder.glob(f"{TARGET_TOKENIZER}/*.json")]):
        if path.name in _OWN_JSON or WEIGHTS.fullmatch(path.name):
            read_json(path)


def _check_weights(paths: Iterable[Path]) -> None:
    """Refuse weights whose header or length is wrong; names the file."""
    import safetensors

    for path in paths:
        try:
            with safetensors.safe_open(path, framework="np"):
                pass
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is broken or cut off: {error}") from error


@contextmanager
def opening(*names: str | Path | None) -> Iterator[None]:
    """Say which file is broken, or which name was not found, where a model or tokenizer cannot be opened.

    Args:
        names: folders, or names on the Hub, that are opened inside of the `with`.

    Raises:
        ValueError: Names the broken file.
        OSError: Names what is neither a folder nor to be had from the Hub.
    """
    paths = [Path(name) for name in names if name]
    for folder in filter(Path.is_dir, paths):
        check_json(folder)
    try:
        yield
    except Exception as error:
        for folder in filter(Path.is_dir, paths):
            _check_weights(sorted(folder.glob("*.safetensors")))
        if isinstance(error, OSError) and (elsewhere := [str(path) for path in paths if not path.is_dir()]):
            raise OSError(
                f"{', '.join(elsewhere)}: no folder here, and not to be had from the Hub: {error}"
            ) from error
        raise


def weight_files(folder: Path) -> list[str]:
    """Return the names of the weights that from_pretrained would read.

    Raises:
        ValueError: There are none, or pieces are missing.
    """
    if single := [name for name in ("model.safetensors", "adapter_model.safetensors") if (folder / name).is_file()]:
        return single
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise ValueError(f"folder ({folder}) is not a saved model: model.safetensors is missing")
    pieces = sorted(set(read_json(index)["weight_map"].values()))
    if lacking := [name for name in pieces if not (folder / name).is_file()]:
        raise ValueError(f"folder ({folder}) lacks {', '.join(lacking)}, named by {index.name}")
    return pieces


def files_to_push(folder: str | Path) -> dict[str, int]:
    """Return the files of a model that belong on the Hub, relative path -> bytes. Whatever is not known stays at home.

    Weights, configs, tokenizers, the code that `auto_map` names with what it imports, the card with its pictures and
    results.json. Never checkpoints, optimizer states, pickles, logs or hidden files.

    Raises:
        ValueError: The folder is not a saved model; names what is missing.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"folder ({folder}) is not a saved model: config.json is missing")
    names = weight_files(folder)
    if not WEIGHTS.fullmatch(names[0]) or "-of-" in names[0]:
        names.append("model.safetensors.index.json")
    names += code_files(folder)
    names += [name for name in CONFIGS | TOKENIZER_FILES | _DOCUMENTS if (folder / name).is_file()]
    names += [f"{TARGET_TOKENIZER}/{name}" for name in TOKENIZER_FILES if (folder / TARGET_TOKENIZER / name).is_file()]
    if "README.md" in names:
        links = re.findall(r"\]\(([^)\s]+)\)", read_text(folder / "README.md"))
        names += [link for link in links if _is_own_picture(folder, Path(link))]
    return {name: (folder / name).stat().st_size for name in sorted(set(names))}


def _is_own_picture(folder: Path, link: Path) -> bool:
    inside = not link.is_absolute() and not any(part.startswith(".") for part in link.parts)
    return inside and link.suffix.lower() in _PICTURES and (folder / link).is_file()


def code_files(folder: Path) -> list[str]:
    """Return the Python files that `auto_map` of config.json names, and those beside them that they import.

    Raises:
        ValueError: One is missing, or a model of ours was saved without its code.
    """
    config = read_json(folder / "config.json")
    if str(config.get("model_type", "")).startswith("genai_") and not config.get("auto_map"):
        raise ValueError(
            f"{folder / 'config.json'} has no auto_map, so no Hub user could open it; save it with hf_genai"
        )
    waiting = [name.split(".")[0] for name in _references(config.get("auto_map")) if "--" not in name]
    found: list[str] = []
    while waiting:
        name = waiting.pop() + ".py"
        if name in found:
            continue
        if not (folder / name).is_file():
            raise ValueError(f"folder ({folder}) lacks {name}, which auto_map or another file of its code needs")
        found.append(name)
        tree = ast.walk(ast.parse(read_text(folder / name)))
        waiting += [
            node.module for node in tree if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        ]
    return found


def _references(auto_map: Mapping[str, Any] | None) -> Iterable[str]:
    """Yield each "module.Class" (with "user/repo--" before it: code of another repository); tokenizers have a list."""
    for value in (auto_map or {}).values():
        yield from (reference for reference in ([value] if isinstance(value, str) else value) if reference)


def find_private(folder: str | Path) -> list[str]:
    """Return "file:line: what" for each token, home folder and host name in the texts that would be pushed."""
    found = []
    for path in (Path(folder) / name for name in files_to_push(folder)):
        if path.suffix in _TEXT:
            lines = path.read_text("utf-8", errors="replace").splitlines()
            for what, pattern, _ in private_patterns(path):
                hits = [number for number, line in enumerate(lines, start=1) if pattern.search(line)]
                found += [f"{path.relative_to(folder)}:{number}: {what}" for number in hits]
    return found


def private_patterns(path: Path) -> list[tuple[str, re.Pattern[str], str]]:
    """Return (what it is, how it looks, what to write instead) of everything that a file must not tell."""
    patterns = [
        ("an access token", r"\bhf_[A-Za-z0-9]{30,}\b", "<token>"),
        ("an access token", r"\b(gh[pousr]_[A-Za-z0-9]{36,}|AKIA[A-Z0-9]{16}|sk-[A-Za-z0-9_-]{20,})\b", "<token>"),
        ("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----", "<private key>"),
    ]
    if path.name not in _VOCABULARIES:
        patterns.append(("a home folder", r"(?<![\w./-])(/home|/Users)/[\w.-]+|\b[A-Za-z]:\\+Users\\+[\w.-]+", "~"))
        with suppress(OSError, RuntimeError, KeyError, ImportError):  # a container's user may have no home or no name
            if len(home := str(Path.home())) > 1:
                patterns.append(("the home folder", rf"(?<![\w./-]){re.escape(home)}(?![\w-])", "~"))
            if (user := getpass.getuser()) not in _COMMON_NAMES:
                own = rf"(?<![\w:./~-])(/[\w.-]+)+/{re.escape(user)}(?![\w-])"
                patterns.append(("a folder of the user's name", own, "~"))
        host = socket.gethostname()
        if len(host) > 3 and host.lower() not in _COMMON_NAMES:
            patterns.append(("the host name", rf"(?<![\w-]){re.escape(host)}(?![\w-])", "<host>"))
    return [(what, re.compile(pattern), substitute) for what, pattern, substitute in patterns]
