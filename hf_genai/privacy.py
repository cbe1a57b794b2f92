"""What texts must not tell: secrets of any maker, home folders, names of the user and the host.

What goes to the Hub is searched; cards and results are cleaned before. What a model says, its labels and tokens, is
never changed: a class may be called /home/garden. Nothing heavy is imported until a function needs it.
"""

import getpass
import json
import re
import socket
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from .cards import TARGET_TOKENIZER
from .files import read_json
from .model_folder import CONFIGS, TOKENIZER_FILES, files_to_push

_TEXT = {".json", ".md", ".txt", ".py", ".html", ".svg", ".jinja", ""}
# made of the data's words: a host called "paris" would be found in them, and their pieces stick together at random
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"}
# names that many machines share tell nothing, and stand in ordinary sentences
_COMMON_NAMES = {"localhost", "host", "computer", "laptop", "desktop", "server", "runner", "root", "user", "admin"}
# keys of a model's JSON whose texts are what the model says
_WORDS = {"id2label", "label2id", "content", "stop_strings"}
# keys of a model's JSON that say where a file lay: nothing that a model does depends on them
_ORIGINS = re.compile(r".*(name_or_path|_file|_path|_dir)")
# detectors of detect-secrets that guess from randomness or from words such as "password", or find public addresses
_GUESSES = ("Entropy", "Keyword", "IP")
# and those whose marks are so short that pieces of words bear them
_SHORT_MARKS = ("Artifactory", "Basic Auth", "Mailchimp", "Twilio")
# makers that detect-secrets does not know, or knows older forms of
_TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|sk-[A-Za-z0-9_-]{20,}|AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{30,}"
    r"|xox[a-z]-[\w-]{20,}|xapp-[\w-]{20,}|gsk_[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{37}|dapi[a-f0-9]{32}"
    r"|do[op]_v1_[a-f0-9]{64}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}|glpat-[\w-]{20,}|shp(?:at|ca|pa|ss)_[a-f0-9]{32}"
    r"|lin_api_\w{40}|nvapi-[\w-]{60,}|pplx-\w{40,}|rk_live_\w{20,})(?!\w)"
)
_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
_LONGEST_LINE = 10_000  # characters that a detector sees at once: some take the square of a line's length
_OVERLAP = 500


@cache
def _detectors() -> dict[str, Any]:
    """Return detect-secrets' detectors of what a certain maker's secrets look like, by name."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes: dict[str, Any] = get_mapping_from_secret_type_to_class()
    return {name: kind() for name, kind in classes.items() if not any(word in name for word in _GUESSES)}


def find_secrets(text: str, vocabulary: bool = False) -> Iterator[tuple[int, str, str]]:
    """Yield (line, what it is, the secret) of each access token, password in an address and private key.

    Args:
        vocabulary: The text is a list of pieces of words, in which short marks stand by chance.
    """
    numbers, pieces = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        for start in range(0, max(len(line), 1), _LONGEST_LINE):
            numbers.append(number)
            pieces.append(line[max(start - _OVERLAP, 0) : start + _LONGEST_LINE])
    text = "\n".join(pieces)
    found: dict[str, str] = {}
    for match in _TOKENS.finditer(text):
        found.setdefault(match[0], "an access token")
    for match in _KEY.finditer(text):
        found.setdefault(match[0], "a private key")
    for name, detector in _detectors().items():
        if not (vocabulary and name.startswith(_SHORT_MARKS)):
            what = "a private key" if "Private Key" in name else f"a secret ({name})"
            for secret in detector.analyze_string(text):
                if not any(secret in known or known in secret for known in found):
                    found[secret] = what
    for secret, what in found.items():
        for match in re.finditer(re.escape(secret), text):
            yield numbers[text.count("\n", 0, match.start())], what, secret


def find_private(folder: str | Path) -> list[str]:
    """Return "file:line: what" for each secret, home folder and host name in the texts that would be pushed.

    Labels and tokens of the model may look like home folders, but not like secrets.
    """
    folder = Path(folder)
    words = words_of(folder)
    found = []
    for path in (folder / name for name in files_to_push(folder)):
        if path.suffix not in _TEXT:
            continue
        text = path.read_text("utf-8", errors="replace")
        if path.suffix == ".md":  # a backslash before a sign is Markdown's, and not to be seen
            text = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)
        name, vocabulary = path.relative_to(folder), path.name in _VOCABULARIES
        found += [f"{name}:{number}: {what}" for number, what, _ in find_secrets(text, vocabulary)]
        if vocabulary:
            continue
        for what, pattern, _ in _names(host=path.name not in CONFIGS | TOKENIZER_FILES):
            for number, line in enumerate(text.split("\n"), start=1):
                if any(match["private"] for match in _beside(pattern, words).finditer(line)):
                    found.append(f"{name}:{number}: {what}")
    return list(dict.fromkeys(found))


def words_of(folder: Path) -> set[str]:
    """Return what the model in a folder says: its labels, its special tokens, what stops it."""
    found: set[str] = set()

    def collect(value: Any, inside: bool) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                found.update([key] if inside else [])
                collect(item, inside or key in _WORDS)
        elif isinstance(value, list):
            for item in value:
                collect(item, inside)
        elif inside and isinstance(value, str):
            found.add(value)

    for path in _own_json(folder):
        collect(read_json(path), False)
    return found


def clean_origins(folder: Path) -> list[str]:
    """Take out of the JSON of a saved model where its files lay; return what was replaced, in words.

    All else that stands there is the model's own, and stays.
    """
    said = []
    for path in _own_json(folder):
        value = read_json(path)
        new, counts = _clean(value, origins=True)
        said += _report(path.name, counts)
        if new != value:
            _write_json(path, new)
    return said


def clean_json(path: Path, words: Collection[str] = ()) -> list[str]:
    """Take what is private out of a JSON file that is no part of a model; return what was replaced, in words."""
    value = read_json(path, (dict, list))
    new, counts = _clean(value, words)
    if new != value:
        _write_json(path, new)
    return _report(path.name, counts)


def clean_card(card: Any, words: Collection[str] = ()) -> tuple[Any, list[str]]:
    """Return a card without what is private, and what was replaced, in words; `words` stay as they are."""
    value = {each.name: getattr(card, each.name) for each in fields(card)}
    new, counts = _clean(value, words)
    return replace(card, **new), _report("README.md", counts)


def _own_json(folder: Path) -> list[Path]:
    """Return the JSON files of a model and its tokenizers that are no vocabularies."""
    names = sorted(name for name in CONFIGS | TOKENIZER_FILES if name.endswith(".json") and name not in _VOCABULARIES)
    paths = [place / name for place in (folder, folder / TARGET_TOKENIZER) for name in names]
    return [path for path in paths if path.is_file()]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _report(name: str, counts: Counter[tuple[str, str]]) -> list[str]:
    return [f"{name}: {what} was replaced by {new} (times: {count})" for (what, new), count in counts.items()]


def _clean(value: Any, words: Collection[str] = (), origins: bool = False) -> tuple[Any, Counter[tuple[str, str]]]:
    """Return texts, lists and mappings without what is private, and how often what was replaced by what.

    Args:
        words: What stays as it is.
        origins: Look only where a key of a mapping says where a file lay.
    """
    counts: Counter[tuple[str, str]] = Counter()
    patterns = [(what, _beside(pattern, words), new) for what, pattern, new in _names()]

    def clean(text: str) -> str:
        for _, what, secret in find_secrets(text):
            new = "<private key>" if what == "a private key" else "<token>"
            text, count = text.replace(secret, new), text.count(secret)
            counts.update({(what, new): count} if count else {})
        for what, pattern, new in patterns:
            count = sum(bool(match["private"]) for match in pattern.finditer(text))
            counts.update({(what, new): count} if count else {})
            text = pattern.sub(lambda match, new=new: new if match["private"] else match[0], text)  # type: ignore[misc]
        return text

    def walk(value: Any, here: bool) -> Any:
        if isinstance(value, dict):
            return {
                key if origins else walk(key, here): walk(item, here or bool(_ORIGINS.fullmatch(str(key))))
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return type(value)(walk(item, here) for item in value)
        return clean(value) if here and isinstance(value, str) else value

    return walk(value, not origins), counts


def _beside(pattern: str, words: Collection[str]) -> re.Pattern[str]:
    """Return a pattern whose group "private" is what `pattern` finds outside of the words, in any way of quoting."""
    found = re.compile(pattern)
    quoted = {
        form for word in words if found.search(word) for form in (word, repr(word)[1:-1], json.dumps(word)[1:-1])
    }
    kept = "|".join(map(re.escape, sorted(quoted, key=len, reverse=True)))
    return re.compile((rf"(?<!\w)(?:{kept})(?![\w-])|" if kept else "") + f"(?P<private>{pattern})")


def _names(host: bool = True) -> list[tuple[str, str, str]]:
    """Return (what it is, how it looks, what to write instead) of each name that a text must not tell.

    Args:
        host: The host's name, too.
    """
    patterns = [("a home folder", r"(?<![\w./-])(?:/home|/Users)/[\w.-]+|\b[A-Za-z]:\\+Users\\+[\w.-]+", "~")]
    with suppress(OSError, RuntimeError, KeyError, ImportError):  # a container's user may have no home or no name
        if len(home := str(Path.home())) > 1:
            patterns.append(("the home folder", rf"(?<![\w./-]){re.escape(home)}(?![\w-])", "~"))
        if (user := getpass.getuser()) not in _COMMON_NAMES:
            own = rf"(?<![\w:./~-])(?:/[\w.-]+)+/{re.escape(user)}(?![\w-])"
            patterns.append(("a folder of the user's name", own, "~"))
    name = socket.gethostname()
    if host and len(name) > 3 and name.lower() not in _COMMON_NAMES:
        patterns.append(("the host name", rf"(?<![\w-]){re.escape(name)}(?![\w-])", "<host>"))
    return patterns
