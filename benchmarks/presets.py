"""Classic and modern layout of each family, trained on the same texts for the same processor time.

    python benchmarks/presets.py --train prose.train.parquet --valid prose.valid.parquet --seconds 240

Both layouts of a family have about the same number of parameters, the same batches in the same order, the same
optimizer, schedule and seed, and no dropout. They train alternately, ten steps each, until each has used its processor
seconds. The learning rate follows the share of the seconds used; the script tries each one that is given with both
layouts. Losses are in nats per predicted token of held-out texts. A masked language model learns from a seventh of its
tokens: in a short run only a small one learns more than the frequencies of single tokens.
"""

import itertools
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from measure import machine, made_up_texts, parse_options

import hf_genai
from hf_genai.data import train_tokenizer
from hf_genai.data.packing import pack
from hf_genai.objectives.causal_lm import CausalLMCollator
from hf_genai.objectives.masked_lm import MaskedLMCollator
from hf_genai.objectives.span_corruption import SpanCorruptionCollator, length_before
from hf_genai.training.optim import make_optimizer

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "activation_dropout_prob": 0.0}
STEPS = 10  # of one layout before the other one trains
FAMILIES = {"gpt": "causal", "bert": "masked", "t5": "span corruption"}


def read(path: str) -> list[str]:
    return (
        pq.read_table(path).column("text").to_pylist()
        if path.endswith(".parquet")
        else Path(path).read_text("utf-8").split("\n\n")
    )


def make_model(family: str, layout: str, tokenizer, hidden_size: int, length: int) -> torch.nn.Module:
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    sizes = {
        **special,
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": hidden_size,
        "num_attention_heads": 4,
        "max_position_embeddings": length,
    }
    if family == "t5":
        sizes |= {"encoder_layers": 4, "decoder_layers": 4, "decoder_start_token_id": tokenizer.pad_token_id}
        config_class, model_class = hf_genai.GenaiT5Config, hf_genai.GenaiT5ForConditionalGeneration
    elif family == "bert":
        config_class, model_class = hf_genai.GenaiBertConfig, hf_genai.GenaiBertForMaskedLM
        sizes |= {"num_hidden_layers": 4}
    else:
        config_class, model_class = hf_genai.GenaiGPTConfig, hf_genai.GenaiGPTForCausalLM
        sizes |= {"num_hidden_layers": 4}
    torch.manual_seed(0)
    if layout == "classic":
        return model_class(config_class.classic(**sizes, **NO_DROPOUT))
    return model_class(config_class(**sizes))


def make_batches(family: str, rows: Dataset, tokenizer, batch_size: int):
    """Yield batches without end; order and random draws depend on the seed only."""
    collate = {
        "gpt": CausalLMCollator(tokenizer.pad_token_id),
        "bert": MaskedLMCollator(tokenizer),
        "t5": SpanCorruptionCollator(tokenizer),
    }[family]
    generator, epoch = torch.Generator().manual_seed(0), 0
    while True:
        order = torch.randperm(len(rows), generator=generator).tolist()
        for start in range(0, len(order) - batch_size + 1, batch_size):
            examples = [rows[index] for index in order[start : start + batch_size]]
            if family == "t5":
                examples = [{"input_ids": example["input_ids"]} for example in examples]
            state = torch.get_rng_state()
            torch.manual_seed(epoch * len(order) + start)
            batch = collate(examples)
            torch.set_rng_state(state)
            yield batch
        epoch += 1


class Run:
    """The training of one model."""

    def __init__(self, model: torch.nn.Module, batches: Iterator[dict], seconds: float, learning_rate: float):
        self.model, self.batches = model.train(), batches
        self.optimizer = make_optimizer(self.model, learning_rate=0.0)
        self.seconds, self.learning_rate, self.used, self.steps = seconds, learning_rate, 0.0, 0

    def train_steps(self) -> None:
        for _ in range(STEPS):
            batch = next(self.batches)
            share = min(self.used / self.seconds, 1.0)
            warm = min(share / 0.05, 1.0) if share < 0.05 else 1.0
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
            started = time.process_time()
            self.model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.used += time.process_time() - started
            self.steps += 1

    @torch.no_grad()
    def evaluate(self, batches: Iterator[dict], count_batches: int) -> float:
        self.model.eval()
        total, count = 0.0, 0
        for batch in itertools.islice(batches, count_batches):
            items = int((batch["labels"] != -100).sum())
            total += self.model(**batch, skip_logits=True).loss.item() * items
            count += items
        return total / count


def main() -> None:
    options = parse_options(
        __doc__,
        train={"help": "texts: parquet with a column text, or plain text with empty lines between texts"},
        valid={"help": "held-out texts"},
        seconds={"type": float, "default": 240, "help": "processor seconds of training for each model"},
        learning_rates={"type": float, "nargs": "+", "default": [1e-3], "help": "tried one after the other"},
        vocab_size={"type": int, "default": 8192},
        hidden_size={"type": int, "default": 256},
        length={"type": int, "default": 128, "help": "tokens a row"},
        batch_size={"type": int, "default": 8, "help": "rows"},
        families={"nargs": "+", "default": list(FAMILIES), "choices": list(FAMILIES)},
    )
    with tempfile.TemporaryDirectory() as folder:
        if options.smoke:
            options.train = options.valid = str(Path(folder, "texts.txt"))
            Path(options.train).write_text("\n\n".join(made_up_texts(200)), "utf-8")
            options.vocab_size, options.hidden_size, options.length, options.seconds = 512, 16, 16, 0.01
        if not options.train or not options.valid:
            raise SystemExit("--train and --valid must be given")
        results = compare_layouts(options)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(options), "rows": results}, indent=1) + "\n")


def compare_layouts(options) -> list[dict]:
    """Train both layouts of each family with each learning rate; print and return their losses."""
    texts = {name: read(getattr(options, name)) for name in ("train", "valid")}
    tokenizer = train_tokenizer(texts["train"], vocab_size=options.vocab_size - 101)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.add_tokens([f"<extra_id_{number}>" for number in range(100)], special_tokens=True)
    ids = {
        name: Dataset.from_dict({"input_ids": tokenizer(split, verbose=False)["input_ids"]})
        for name, split in texts.items()
    }
    results = []
    for family, learning_rate in itertools.product(options.families, options.learning_rates):
        length, size = options.length, options.batch_size
        packed = length if family != "t5" else length_before(length)
        rows = {name: pack(split, packed)[0] for name, split in ids.items()}
        runs = {
            layout: Run(
                make_model(family, layout, tokenizer, options.hidden_size, length),
                make_batches(family, rows["train"], tokenizer, size),
                options.seconds,
                learning_rate,
            )
            for layout in ("classic", "modern")
        }
        while any(run.used < run.seconds for run in runs.values()):
            for run in runs.values():
                if run.used < run.seconds:
                    run.train_steps()
        for layout, run in runs.items():
            held_out = make_batches(family, rows["valid"], tokenizer, size)
            loss = run.evaluate(held_out, max(len(rows["valid"]) // size, 1))
            results.append(
                {
                    "family": family,
                    "objective": FAMILIES[family],
                    "layout": layout,
                    "steps": run.steps,
                    "parameters": run.model.num_parameters(),
                    "learning_rate": learning_rate,
                    "seconds": round(run.used, 1),
                    "loss": round(loss, 4),
                }
            )
            print(results[-1], flush=True)
    return results


if __name__ == "__main__":
    main()
