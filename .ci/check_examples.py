"""Run what README and `--help` show of the demo's model, in the folder that holds it, and compare what they print.

README's first Python block says behind each `print` what it prints, several outputs with "; " between them. Of the
commands on `hf_genai_demo` in README and in `--help`, those that translate must print the translations below.
"""

import contextlib
import io
import re
import shlex
from pathlib import Path

from hf_genai.cli import main

TRANSLATIONS = {
    "in 3 days": "dans 3 jours",
    "France and Spain": "France et Espagne",
    "Monday, May 4, 2026": "lundi 4 mai 2026",
}


def printed(code) -> list[str]:
    """Return the lines that a call prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code()
    return [line for line in out.getvalue().splitlines() if not line.startswith("wrote ")]


def command(line: str) -> list[str]:
    """Run a command `hf-genai ...`; return what it printed."""

    def run():
        try:
            main(shlex.split(line, comments=True)[1:])
        except SystemExit as ended:
            assert ended.code == 0, line

    return printed(run)


readme = Path("README.md").read_text("utf-8")
block = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
shown = [text for comment in re.findall(r"print\(.*\)  # (.*)", block) for text in comment.split("; ")]
found = printed(lambda: exec(compile(block, "README.md", "exec"), {}))
assert len(shown) == 3 and found == shown, f"README's block prints {found}, not {shown}"

pages = "\n".join("\n".join(command(f"hf-genai {page} --help")) for page in ("", "generate", "attend"))
lines = re.findall(r"^.*?(hf-genai (?:generate|attend) hf_genai_demo .*)$", f"{readme}\n{pages}", re.MULTILINE)
examples = [line for line in dict.fromkeys(line.strip() for line in lines) if '"' in line]
assert len(examples) >= 4, examples
for example in examples:
    texts = [word for word in shlex.split(example, comments=True)[3:] if word in TRANSLATIONS]
    again = " --force" if " attend " in example else ""
    found = command(example.partition(" #")[0] + again)
    assert texts and found == [TRANSLATIONS[text] for text in texts], f"{example} prints {found}"
    print(f"{example} -> {'; '.join(found)}")
