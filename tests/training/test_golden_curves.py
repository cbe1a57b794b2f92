"""The first 50 losses of each tiny config, so that a change that alters training is seen.

The data is made by a seeded generator, as built-in texts differ between versions of Python and of Babel. By default
the configs run at a small width and on few rows, with their own layers, objective, learning rate and initialisation;
`-m slow` runs them as they are. After a change that is meant, write the curves anew (some minutes):

    PYTHONPATH=. python tests/training/test_golden_curves.py                      # all
    PYTHONPATH=. python tests/training/test_golden_curves.py text/qa gpt_tiny     # by words in their names
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import pytest

from hf_genai.training import load_recipe, recipes_dir

GOLDEN = Path(__file__).with_name("golden_curves.json")
STEPS = 50
PRETRAINING = ["pretrain_text/gpt_tiny", "pretrain_text/bert_tiny", "pretrain_text/t5_tiny", "pretrain_text/code_tiny"]
PAIRS = ["train_seq2seq/rnn_tiny", "train_seq2seq/t5_tiny"]
TASKS = ["classification", "tagging", "qa", "summarisation", "dialogue", "code"]
CONFIGS = [*PRETRAINING, *PAIRS, *(f"finetune_text/{task}" for task in TASKS)]
# options of the small runs; the rest of a config stays
SMALL = {
    "pretrain_text": {"model.hidden_size": 32, "row_length": 48, "vocab_size": 512, "per_device_batch_size": 4},
    "train_seq2seq": {"model.hidden_size": 32, "vocab_size": 320, "per_device_train_batch_size": 8},
    "finetune_text": {
        **{"model.hidden_size": 32, "vocab_size": 320, "per_device_train_batch_size": 2, "max_length": 48},
        **{"max_target_length": 8, "stride": 8},
    },
}
# what every run has in common; what is not trained costs as little as possible
ALL = {
    "pretrain_text": {"eval_steps": 0, "logging_steps": STEPS, "validation_data": 0.05, "num_samples": 0},
    "train_seq2seq": {"num_attention_maps": 0, "max_test_samples": 2, "generation.max_new_tokens": 2},
    "finetune_text": {"validation_data": 0.02, "test_data": 0.02},
}
TRAINER = {
    **{"logging_steps": 1, "eval_strategy": "no", "load_best_model_at_end": "false", "save_strategy": "steps"},
    **{"save_steps": STEPS, "use_cpu": "true", "disable_tqdm": "true"},
}


def sentences(count: int, seed: int) -> list[str]:
    """Return made-up sentences whose next word depends on the last one."""
    draw = random.Random(seed)  # of Python's generators, the one whose numbers are promised to stay
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]

    def pick(items: list[str]) -> str:
        return items[int(draw.random() * len(items))]

    words = ["".join(pick(syllables) for _ in range(1 + number % 3)) for number in range(120)]
    follow = {word: [pick(words) for _ in range(6)] for word in words}
    found = []
    for _ in range(count):
        text = [pick(words)]
        for _ in range(4 + int(draw.random() * 20)):
            text.append(pick(follow[text[-1]]))
        found.append(" ".join(text) + ".")
    return found


def rows_of(config: str, count: int) -> list[dict]:
    """Return rows with the columns of a config's data."""
    texts = sentences(count, seed=len(config))
    if config in PAIRS:
        return [{"source": text[:60], "target": " ".join(reversed(text[:60].split()))} for text in texts]
    return [row_of(config.split("/")[1], text) for text in texts]


def row_of(task: str, text: str) -> dict:
    """Return a row of a task (of pretraining, too: a text) in which something can be learned."""
    words = text.rstrip(".").split()
    answer = max(words, key=len)
    return {
        "classification": {"text": text, "label": text[0]},
        "tagging": {"tokens": words, "tags": [f"{len(word) // 2} syllables" for word in words]},
        "qa": {
            **{"question": "Which word is longest?", "context": text},
            **{"answer": answer, "answer_start": text.index(answer)},
        },
        "summarisation": {"document": text, "summary": f"{words[0]} {words[-1]}"},
        "dialogue": {"messages": [" ".join(words[:5]), f"{words[1]} {words[0]}"]},
    }.get(task, {"text": text})


def curve(config: str, folder: Path, small: bool) -> list[float]:
    """Return the losses, in nats per token, of a config's first 50 steps."""
    recipe = config.split("/")[0]
    data = folder / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows_of(config, 300 if small else 3000))), "utf-8")
    options = {"data": data, "output_dir": folder / "run", "max_steps": STEPS, "overwrite_output_dir": "true"}
    options |= ALL[recipe] | ({} if recipe == "pretrain_text" else TRAINER) | (SMALL[recipe] if small else {})
    if recipe == "train_seq2seq":
        options["train_size"] = 200
    argv = [str(recipes_dir() / "configs" / f"{config}.yaml")]
    for name, value in options.items():
        argv += [f"--{name}", str(value)]
    results = load_recipe(recipe).main(argv)
    if recipe == "pretrain_text":
        return results["losses"]
    state = folder / "run" / f"checkpoint-{STEPS}" / "trainer_state.json"
    return [round(row["loss"], 6) for row in json.loads(state.read_text())["log_history"] if "loss" in row]


def compare(config: str, folder: Path, small: bool) -> None:
    expected = json.loads(GOLDEN.read_text())["small" if small else "full"][config]
    found = curve(config, folder, small)
    assert len(found) == STEPS
    first = next(
        (step for step, pair in enumerate(zip(found, expected, strict=True)) if abs(pair[0] - pair[1]) > 1e-4), None
    )
    assert first is None, f"{config}: step {first + 1} has loss {found[first]}, and had {expected[first]}"


@pytest.mark.parametrize("config", CONFIGS)
def test_the_first_losses_of_a_config_are_those_that_were_kept(config, tmp_path):
    compare(config, tmp_path, small=True)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_the_first_losses_of_a_config_at_full_size_are_those_that_were_kept(config, tmp_path):
    compare(config, tmp_path, small=False)


def write_golden(chosen: list[str]) -> None:
    """Write the curves of the configs whose name holds one of the words, of all without any."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"small": {}, "full": {}}
    for size in ("small", "full"):
        for config in CONFIGS:
            if not chosen or any(word in f"{size}/{config}" for word in chosen):
                with tempfile.TemporaryDirectory() as folder:
                    golden[size][config] = curve(config, Path(folder), size == "small")
    lines = [
        f'  "{size}": {{\n'
        + ",\n".join(f'    "{name}": {json.dumps(losses)}' for name, losses in curves.items())
        + "\n  }"
        for size, curves in golden.items()
    ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write_golden(sys.argv[1:])
