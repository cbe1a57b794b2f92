"""Pretraining on texts of real lengths: BERT, GPT and T5 against transformers, the data side and the loop.

    OMP_NUM_THREADS=1 python benchmarks/pretrain_text.py --json results.json
    OMP_NUM_THREADS=1 python benchmarks/pretrain_text.py --only mlm --data texts.parquet     # column text

The recipe's functions make tokenizer, rows and batches; sizes, optimizer and steps are those of train_transformers.py.
The script copies weights and checks that losses and gradients are equal before it measures. Each round takes a batch
that the model has not seen, as in training. Times are per token; padding does not count as tokens.
"""

import argparse
import itertools
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import peers_transformers as peers
import torch
from datasets import Dataset
from measure import interleaved, made_up_texts, parse_options, report, row, selected
from train_transformers import check_equal, our_bert, our_gpt, our_t5

from hf_genai.data import train_tokenizer
from hf_genai.data.texts import load_texts
from hf_genai.training import loop
from hf_genai.training.pretraining import make_collator, make_rows, parse_pretrain_arguments
from hf_genai.training.pretraining_tokenizer import special_tokens

SIZES, DROPOUT = peers.Sizes(), 0.1  # of BERT and T5, whose default it is; GPT has none
SENTENCES, ROWS, POOL = 96, 16, 20  # rows of a batch; batches within which length buckets are sorted
# BERT's own batch (Devlin et al. 2019, appendix A.2), and an eighth of the tokens of T5's (Raffel et al. 2020, 3.1.2)
MANY_SENTENCES, MANY_ROWS = 256, 64
SMOKE_SIZES = peers.Sizes(vocab_size=512, length=16, hidden_size=16, layers=1, heads=2)


def make_tokenizer(texts: list[str], sizes: peers.Sizes):
    sentinels = special_tokens("span_corruption")
    size = sizes.vocab_size - len(sentinels) - 1
    tokenizer = train_tokenizer(texts, "byte_bpe", size, model_max_length=sizes.length)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.add_tokens(sentinels, special_tokens=True)
    return tokenizer


class Texts:
    """Rows and batches of one objective; the recipe's functions make them."""

    def __init__(self, texts: list[str], tokenizer, objective: str, packing: bool, size: int):
        length = str(tokenizer.model_max_length)
        options = ["--objective", objective, "--packing", str(packing), "--row_length", length]
        arguments = parse_pretrain_arguments([*options, "--output_dir", "unused"])
        self.rows, self.report = make_rows(arguments, tokenizer, Dataset.from_dict({"text": texts}))
        self.collate, self.size = make_collator(arguments, tokenizer), size
        self.order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(0)).tolist()

    def batches(self, sort: bool = False) -> Iterator[dict]:
        """Yield batches without end; `sort`: of rows of similar lengths, like Trainer's group_by_length."""
        while True:
            for start in range(0, len(self.order) - POOL * self.size + 1, POOL * self.size):
                pool = self.order[start : start + POOL * self.size]
                if sort:
                    pool = sorted(pool, key=lambda index: len(self.rows[index]["input_ids"]))
                chunks = [pool[first : first + self.size] for first in range(0, len(pool), self.size)]
                for number in torch.randperm(len(chunks), generator=torch.Generator().manual_seed(start)).tolist():
                    yield self.collate([self.rows[index] for index in chunks[number]])


def count_tokens(batch: dict, pad_token_id: int) -> int:
    """Return the number of tokens of source and target that are not padding."""
    tokens = (batch["input_ids"] != pad_token_id).sum()
    if batch["labels"].shape != batch["input_ids"].shape:
        tokens = tokens + (batch["labels"] != -100).sum()
    return int(tokens)


def stepper(model) -> Callable[[dict], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(batch: dict) -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def per_token(
    contenders: dict[str, tuple[object, Iterator[dict]]], options: argparse.Namespace, pad_token_id: int
) -> dict[str, float]:
    """Return the median microseconds per token of each contender (model, batches) over interleaved rounds."""

    def trainer(model, batches: Iterator[dict]) -> Callable[[], int]:
        step, number = stepper(model), options.rounds + options.warm_up
        prepared = itertools.cycle(list(itertools.islice(batches, number)))

        def run() -> int:
            batch = next(prepared)
            step(batch)
            return count_tokens(batch, pad_token_id)

        return run

    runs = interleaved({name: trainer(*contender) for name, contender in contenders.items()}, options)
    return {
        name: statistics.median(1e6 * seconds / tokens for seconds, tokens in results)
        for name, results in runs.items()
    }


def compare(name: str, times: dict[str, float], pairs: dict[tuple[str, str], float | None]) -> list[dict]:
    return [
        row(f"{name}, {ours}", theirs, times[ours], times[theirs], target, unit="us/token")
        for (ours, theirs), target in pairs.items()
    ]


def masked(texts: list[str], tokenizer, sizes: peers.Sizes, options) -> list[dict]:
    """Measure sentences in random batches, in batches of similar lengths and, ours only, packed."""
    sentences = [part for text in texts for part in re.split(r"(?<=[.!?])\s+", text) if len(part.split()) > 2]
    few, many, packed_rows = (4, 8, 4) if options.smoke else (SENTENCES, MANY_SENTENCES, ROWS)
    padded = Texts(sentences, tokenizer, "mlm", False, few)
    larger = Texts(sentences, tokenizer, "mlm", False, many)
    packed = Texts(sentences, tokenizer, "mlm", True, packed_rows)
    lengths = [len(ids) for ids in padded.rows["input_ids"]]
    print(f"{len(lengths):,} sentences, {statistics.mean(lengths):.1f} tokens each; packed: {packed.report}")
    ours, theirs = our_bert(sizes).train(), peers.bert(sizes).train()
    check_equal(ours, theirs, peers.weights_of_bert, next(padded.batches()))
    sources = {"padded": padded.batches, "length buckets": lambda: padded.batches(sort=True)}
    buckets = ("length buckets", "transformers length buckets")
    pairs = {
        ("padded", "transformers padded"): 4.4,
        ("packed", "transformers padded"): 4.4,
        buckets: 2.3,
        ("packed", "transformers length buckets"): 2.3,
    }
    ours, theirs = our_bert(sizes, DROPOUT).train(), peers.bert(sizes, DROPOUT).train()
    contenders = {name: (ours, make()) for name, make in {**sources, "packed": packed.batches}.items()}
    contenders |= {f"transformers {name}": (theirs, make()) for name, make in sources.items()}
    rows = compare(f"mlm, {few} sentences", per_token(contenders, options, tokenizer.pad_token_id), pairs)
    contenders = {buckets[0]: (ours, larger.batches(sort=True)), buckets[1]: (theirs, larger.batches(sort=True))}
    times = per_token(contenders, options, tokenizer.pad_token_id)
    return rows + compare(f"mlm, {many} sentences", times, {buckets: pairs[buckets]})


def causal(texts: list[str], tokenizer, sizes: peers.Sizes, options) -> list[dict]:
    """Measure packed rows on both sides, and rows of one text each."""
    size = 4 if options.smoke else ROWS
    packed = Texts(texts, tokenizer, "clm", True, size)
    print(f"packed: {packed.report}")
    padded = Texts(texts, tokenizer, "clm", False, size)

    def with_mask() -> Iterator[dict]:
        for batch in padded.batches():
            real = batch["input_ids"] != tokenizer.pad_token_id
            yield {"input_ids": batch["input_ids"], "labels": batch["labels"], "attention_mask": real.long()}

    ours, theirs = our_gpt(sizes).train(), peers.gpt2(sizes).train()
    for batches in (packed.batches(), with_mask()):
        check_equal(ours, theirs, peers.weights_of_gpt2, next(batches))
    contenders = {"packed": (ours, packed.batches()), "padded": (ours, with_mask())}
    contenders |= {"GPT-2 packed": (theirs, packed.batches()), "GPT-2 padded": (theirs, with_mask())}
    pairs = {("packed", "GPT-2 packed"): 1.3, ("packed", "GPT-2 padded"): None, ("padded", "GPT-2 padded"): 0.97}
    return compare("clm", per_token(contenders, options, tokenizer.pad_token_id), pairs)


def spans(texts: list[str], tokenizer, sizes: peers.Sizes, options) -> list[dict]:
    """Measure full rows on both sides (texts end to end, as in the paper), and rows of one text each."""
    rows = []
    for size in (4,) if options.smoke else (ROWS, MANY_ROWS):
        packed, padded = (Texts(texts, tokenizer, "span_corruption", packing, size) for packing in (True, False))
        ours, theirs = our_t5(sizes).train(), peers.t5(sizes).train()
        for source in (packed, padded):
            check_equal(ours, theirs, peers.weights_of_t5, next(source.batches()))
        ours, theirs = our_t5(sizes, DROPOUT).train(), peers.t5(sizes, DROPOUT).train()
        contenders = {"packed": (ours, packed.batches()), "padded": (ours, padded.batches())}
        contenders |= {"T5 packed": (theirs, packed.batches()), "T5 padded": (theirs, padded.batches())}
        pairs = {("packed", "T5 packed"): 1.2, ("padded", "T5 padded"): 0.97, ("packed", "T5 padded"): None}
        times = per_token(contenders, options, tokenizer.pad_token_id)
        rows += compare(f"span corruption, {size} rows", times, pairs)
    return rows


class EmptyModel(torch.nn.Module):
    """A model whose step costs next to nothing, so that a run of the loop measures the loop."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(8))

    def forward(self, **kwargs):
        return argparse.Namespace(loss=self.weight.sum())


def data_and_loop(texts: list[str], tokenizer, sizes: peers.Sizes, options) -> list[dict]:
    """Measure reading, tokenizing and packing, and the loop, beside a training step of GPT."""

    def seconds(run: Callable[[], object]) -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    size, steps = (4, 5) if options.smoke else (ROWS, 200)
    results = []
    reading = seconds(lambda: load_texts(options.data, validation=0.0, test=0.0))
    making = seconds(lambda: results.append(Texts(texts, tokenizer, "clm", True, size)))
    packed = results[0]
    tokens = packed.report.num_tokens
    model = our_gpt(sizes).train()
    step = stepper(model)
    batches = list(itertools.islice(packed.batches(), options.rounds + 2))
    model_us = 1e6 * statistics.median([seconds(lambda b=batch: step(b)) for batch in batches][2:])
    loop_options = loop.LoopOptions("unused", steps, per_device_batch_size=size)
    loop_us = 1e6 * seconds(lambda: loop.train(EmptyModel(), packed.rows, packed.collate, loop_options)) / steps
    peer, per_token_us = "GPT's training step", model_us / count_tokens(batches[0], tokenizer.pad_token_id)
    return [
        row("reading the files", peer, 1e6 * reading / tokens, per_token_us, None, "us/token"),
        row("tokenizing and packing", peer, 1e6 * making / tokens, per_token_us, None, "us/token"),
        row("the loop, batches included", peer, loop_us, model_us, 50.0, "us/step"),
    ]


PARTS = {"mlm": masked, "clm": causal, "span": spans, "data": data_and_loop}  # by the names for --only


def main() -> None:
    data = {"default": "stdlib:prose", "help": "built-in set, or a file with a column text"}
    options = parse_options(__doc__, rounds=12, data=data)
    sizes = SMOKE_SIZES if options.smoke else SIZES
    with tempfile.TemporaryDirectory() as folder:
        if options.smoke:
            options.data = str(Path(folder, "texts.txt"))
            Path(options.data).write_text("\n\n".join(made_up_texts(100)), "utf-8")
        texts = load_texts(options.data, validation=0.0, test=0.0).train["text"][:]
        tokenizer = make_tokenizer(texts, sizes)
        rows = []
        for name, part in PARTS.items():
            if selected(name, options):
                rows += part(texts, tokenizer, sizes, options)
    report(rows, options)


if __name__ == "__main__":
    sys.exit(main())
