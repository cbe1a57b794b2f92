"""Built-in training rows that need no download, from Python's standard library and from Unicode CLDR.

| name             | task           | a row                                                                     |
|------------------|----------------|---------------------------------------------------------------------------|
| stdlib:prose     | pretraining    | a text of the standard library's documentation                            |
| stdlib:code      | code           | a source file of the standard library                                     |
| stdlib:tokens    | tagging        | the tokens of a line of code; the type of each, by Python's tokenizer     |
| stdlib:calls     | qa             | a function's documentation; the sentence about an argument                |
| stdlib:summaries | summarisation  | a documentation text without its first line; the first line               |
| stdlib:questions | dialogue       | "What does X do?"; the first line of X's documentation                    |
| cldr:languages   | classification | a name of a country, language or currency; the language of the name       |

People wrote the texts; rules make the questions and choose the answers.
"""

import ast
import io
import keyword
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from .pairs import Provenance

_LANGUAGES = ("en", "fr", "de", "es", "it", "pt", "nl", "sv", "da", "pl", "cs", "hu", "fi", "tr", "ro", "id", "vi")


def load_built_in(name: str) -> tuple[Dataset, Provenance]:
    """Return all rows and the provenance of one of the sets above.

    Raises:
        ValueError: an unknown name.
    """
    if name not in MAKERS:
        raise ValueError(f"source must be one of {', '.join(MAKERS)}, not {name!r}")
    rows, description = MAKERS[name]
    is_cldr = name.startswith("cldr")
    version = sys.version.split()[0]
    return Dataset.from_list(list(rows())), Provenance(
        name=name,
        description=description,
        licence="Unicode-3.0 (CLDR data)" if is_cldr else "PSF-2.0",
        origin="Unicode CLDR, through Babel" if is_cldr else f"Python {version}'s standard library",
        languages=_LANGUAGES if is_cldr else ("en",),
        synthetic=False,
    )


def standard_library_sources() -> Iterator[tuple[Path, str]]:
    """Yield path and text of each source file of the standard library, sorted, without tests and site-packages."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).parts
        if not {"site-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"} & set(inside):
            try:
                yield path, path.read_text("utf-8")
            except UnicodeDecodeError:
                continue


def _prose() -> Iterator[dict[str, Any]]:
    """Yield the topics of `help()`, and the docstrings of modules, classes and functions."""
    from pydoc_data.topics import topics

    yield from ({"text": topics[name]} for name in sorted(topics))
    for _, text in standard_library_sources():
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                documentation = ast.get_docstring(node)
                if documentation and len(documentation.split()) >= 8:
                    yield {"text": documentation}


def _languages() -> Iterator[dict[str, Any]]:
    from babel import Locale

    seen: dict[str, set[str]] = {}
    for code in _LANGUAGES:
        locale = Locale.parse(code)
        for table in (locale.territories, locale.languages, locale.currencies):
            for text in table.values():
                if len(text) >= 5 and not any(mark.isdigit() for mark in text):
                    seen.setdefault(text, set()).add(code)
    for text in sorted(seen):
        if len(seen[text]) == 1:  # a name that several languages share has no single label
            yield {"text": text, "label": next(iter(seen[text]))}


def _tokens() -> Iterator[dict[str, Any]]:
    names_of_types = {
        tokenize.NUMBER: "number",
        tokenize.STRING: "string",
        tokenize.OP: "operator",
        tokenize.COMMENT: "comment",
    }
    for _, text in standard_library_sources():
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (tokenize.TokenError, SyntaxError, IndentationError):
            continue
        words: list[str] = []
        tags: list[str] = []
        line = 0
        for position, token in enumerate(tokens):
            if token.start[0] != line and len(words) >= 4:
                yield {"tokens": words, "tags": tags}
            if token.start[0] != line:
                words, tags, line = [], [], token.start[0]
            if token.type == tokenize.NAME:
                before = tokens[position - 1].string if position else ""
                after = tokens[position + 1].string if position + 1 < len(tokens) else ""
                kind = "name"
                if keyword.iskeyword(token.string):
                    kind = "keyword"
                elif before in ("def", "class"):
                    kind = "definition"
                elif after == "(":
                    kind = "call"
                elif before == ".":
                    kind = "attribute"
            elif token.type in names_of_types and "\n" not in token.string and len(token.string) < 60:
                kind = names_of_types[token.type]
            else:
                continue
            words.append(token.string)
            tags.append(kind)


def _documented() -> Iterator[tuple[str, ast.AST, str]]:
    """Yield (full name, definition, documentation) of every documented function and class."""
    for path, text in standard_library_sources():
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                documentation = ast.get_docstring(node)
                if documentation:
                    yield f"{path.stem}.{node.name}", node, documentation


def _calls() -> Iterator[dict[str, Any]]:
    for name, node, text in _documented():
        if not isinstance(node, ast.FunctionDef) or len(text) < 80:
            continue
        for argument in node.args.args:
            word = argument.arg
            if len(word) < 4 or word in ("self", "args", "kwargs"):
                continue
            for start, sentence in _sentences(text):
                if f" {word} " in f" {sentence} " and 20 < len(sentence) < 200:
                    question = f"What does {name} say of {word}?"
                    yield {"question": question, "context": text, "answer": sentence, "answer_start": start}
                    break


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    while start < len(text):
        end = min(
            (position for mark in (". ", ".\n", "\n\n") if (position := text.find(mark, start)) >= 0),
            default=len(text),
        )
        sentence = text[start : end + 1].rstrip()
        lead = len(sentence) - len(sentence.lstrip())
        if sentence.strip():
            yield start + lead, sentence.strip()
        start = end + 1


def _summaries() -> Iterator[dict[str, Any]]:
    for _, _, text in _documented():
        first, _, rest = text.partition("\n\n")
        if "\n" not in first and 4 <= len(first.split()) <= 20 and len(rest.split()) >= 20:
            yield {"document": rest.strip(), "summary": first.strip()}


def _questions() -> Iterator[dict[str, Any]]:
    for name, node, text in _documented():
        first = text.partition("\n\n")[0].strip()
        if "\n" not in first and len(first.split()) >= 4 and not name.split(".")[-1].startswith("_"):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            turns = [f"What does the {kind} {name} do?", first]
            roles = ("user", "assistant")
            yield {"messages": [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]}


def _code() -> Iterator[dict[str, Any]]:
    yield from ({"text": text} for _, text in standard_library_sources())


MAKERS = {
    "stdlib:prose": (_prose, "Documentation of Python's standard library, and its language reference."),
    "stdlib:code": (_code, "Source files of Python's standard library, without its tests."),
    "cldr:languages": (_languages, "Names of countries, languages and currencies, with the language they stand in."),
    "stdlib:tokens": (_tokens, "Lines of code, with the kind of each token by Python's own tokenizer."),
    "stdlib:calls": (_calls, "Documentation of functions; questions by rule, answers are its sentences."),
    "stdlib:summaries": (_summaries, "Documentation, and its authors' own first lines."),
    "stdlib:questions": (_questions, "Questions by rule; answers are first lines of documentation."),
}
