"""Print the tables of README.md from the folders that `all.sh` wrote: one table a script, one ratio a folder.

python benchmarks/tables.py results/first results/second
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import markdown


def lines(folders: list[Path]) -> Iterator[str]:
    for path in sorted(folders[0].glob("*.json")):
        reports = [
            json.loads((folder / path.name).read_text("utf-8")) for folder in folders if (folder / path.name).exists()
        ]
        if not all("ratio" in row and "name" in row for row in reports[0]["rows"]):
            continue  # a script with a table of its own
        about = {
            name: " and ".join(dict.fromkeys(r["machine"][name] for r in reports)) for name in reports[0]["machine"]
        }
        yield f"\n### {path.stem}\n"
        yield from markdown(about, *(report["rows"] for report in reports))


if __name__ == "__main__":
    print("\n".join(lines([Path(folder) for folder in sys.argv[1:]])))
