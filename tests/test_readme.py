"""README's commands and snippets are run as they stand; `.ci/run` runs its two set-up lines in a fresh environment."""

import re
import shlex
from pathlib import Path

import pytest

from hf_genai.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PAIRS = "en\tfr\n" + "".join(f"in {n} days\tdans {n} jours\n{n} euros\t{n} euros\n" for n in range(2, 300))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(line: str, *more: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*shlex.split(line, comments=True)[1:], *more])
    assert stop.value.code == 0, line


def test_the_two_set_up_lines_can_be_pasted_and_install_what_they_run():
    for name, last in (("demo", "hf-genai demo"), ("test", "pytest")):
        (line,) = re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)```", README, re.DOTALL)[1].splitlines()
        steps = [step.strip() for step in line.split("&&")]
        assert steps[0] == "python3 -m venv .venv"
        assert "-c constraints.txt" in steps[1]
        assert steps[2].startswith(f".venv/bin/{last}")


def test_every_snippet_of_the_readme_runs_on_the_demo_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.tsv").write_text(PAIRS, encoding="utf-8")
    (tmp_path / "held_out.tsv").write_text("en\tfr\nin 300 days\tdans 300 jours\n", encoding="utf-8")
    short = "--max_steps 2 --eval_steps 2 --save_steps 2 --train_size 200 --max_eval_samples 4 --max_test_samples 4"
    short += " --num_attention_maps 1 --generation.max_new_tokens 4"
    run("hf-genai demo --output_dir hf_genai_demo", *shlex.split(short))
    for snippet in blocks("python"):
        exec(compile(snippet, "README.md", "exec"), {})
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("hf-genai ")]
    kinds = ["generate", "attend", "train", "evaluate", "push", "train", "train"]
    assert [command.split()[1] for command in commands] == kinds
    (tmp_path / "texts.txt").write_text("\n\n".join(f"in {n} days it is over" for n in range(300)), encoding="utf-8")
    quick = {
        "rnn_small": short.replace("--train_size 200 ", "") + " --vocab_size 300",
        "gpt_tiny": "--max_steps 2 --vocab_size 300 --model.hidden_size 32",
        "classification": "--max_steps 2 --max_rows 50 --vocab_size 600 --model.hidden_size 32",
    }
    for command in commands:
        run(command, *shlex.split(quick.get(command.split()[2], "")))
    assert (tmp_path / "attention.png").exists() and (tmp_path / "attention.html").exists()
    assert "nothing was sent" in capsys.readouterr().out
