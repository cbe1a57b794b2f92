"""Pretraining on texts of real lengths: BERT, GPT and T5 against transformers, the data side and the loop; one thread.

    OMP_NUM_THREADS=1 python benchmarks/pretrain_text.py --json results.json
    OMP_NUM_THREADS=1 python benchmarks/pretrain_text.py --only mlm --data texts.parquet     # column text

Tokenizer, rows and batches are made by what the recipe uses; sizes, optimizer and steps are those of
train_transformers.py. Weights are copied and losses and gradients checked to be equal before the clock runs. Each turn
takes a batch that was not seen before, as in training. Padding is no token.
"""

import argparse
import itertools
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import peers_transformers as peers
import torch
from datasets import Dataset
from measure import WARM_UP, arguments, in_turns, report, row
from train_transformers import check_equal, our_bert, our_gpt, our_t5

from hf_genai.data import train_tokenizer
from hf_genai.data.texts import load_texts
from hf_genai.training import loop
from hf_genai.training.pretraining import make_collator, make_rows, parse_pretrain_arguments
from hf_genai.training.pretraining_tokenizer import special_tokens

VOCABULARY, LENGTH = 8192, 128
SENTENCES, ROWS, POOL = 96, 16, 20  # of a batch; batches among which lengths are sorted
# BERT's own batch (Devlin et al. 2019, appendix A.2), and an eighth of the tokens of T5's (Raffel et al. 2020, 3.1.2)
MANY_SENTENCES, MANY_ROWS = 256, 64


def make_tokenizer(texts: list[str]):
    sentinels = special_tokens("span_corruption")
    tokenizer = train_tokenizer(texts, "byte_bpe", VOCABULARY - len(sentinels) - 1, model_max_length=LENGTH)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.add_tokens(sentinels, special_tokens=True)
    return tokenizer


class Texts:
    """Rows and batches of one objective, as the recipe makes them."""

    def __init__(self, texts: list[str], tokenizer, objective: str, packing: bool, size: int):
        options = ["--objective", objective, "--packing", str(packing), "--row_length", str(LENGTH)]
        arguments = parse_pretrain_arguments([*options, "--output_dir", "unused"])
        self.rows, self.report = make_rows(arguments, tokenizer, Dataset.from_dict({"text": texts}))
        self.collate, self.size = make_collator(arguments, tokenizer), size
        self.order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(0)).tolist()

    def batches(self, sort: bool = False) -> Iterator[dict]:
        """Yield batches without end; `sort`: rows of like length together, as in Trainer's group_by_length."""
        while True:
            for start in range(0, len(self.order) - POOL * self.size + 1, POOL * self.size):
                pool = self.order[start : start + POOL * self.size]
                if sort:
                    pool = sorted(pool, key=lambda place: len(self.rows[place]["input_ids"]))
                chunks = [pool[place : place + self.size] for place in range(0, len(pool), self.size)]
                for number in torch.randperm(len(chunks), generator=torch.Generator().manual_seed(start)).tolist():
                    yield self.collate([self.rows[place] for place in chunks[number]])


def count_tokens(batch: dict, pad_token_id: int) -> int:
    """Tokens that are no padding, of source and target."""
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
    contenders: dict[str, tuple[object, Iterator[dict]]], rounds: int, pad_token_id: int
) -> dict[str, float]:
    """Processor microseconds a token of each contender (model, batches), in turns; medians over batches."""

    def trainer(model, batches: Iterator[dict]) -> Callable[[], int]:
        step, made = stepper(model), itertools.cycle(list(itertools.islice(batches, rounds + WARM_UP)))

        def run() -> int:
            batch = next(made)
            step(batch)
            return count_tokens(batch, pad_token_id)

        return run

    runs = in_turns({name: trainer(*contender) for name, contender in contenders.items()}, rounds)
    return {
        name: statistics.median(1e6 * seconds / tokens for seconds, tokens in found) for name, found in runs.items()
    }


def compare(name: str, found: dict[str, float], pairs: dict[tuple[str, str], float | None]) -> list[dict]:
    return [
        row(f"{name}, {ours}", theirs, found[ours], found[theirs], goal, "us/token")
        for (ours, theirs), goal in pairs.items()
    ]


def masked(texts: list[str], tokenizer, rounds: int) -> list[dict]:
    """Sentences: in random batches, in batches of like lengths and, ours, packed."""
    sentences = [part for text in texts for part in re.split(r"(?<=[.!?])\s+", text) if len(part.split()) > 2]
    padded = Texts(sentences, tokenizer, "mlm", False, SENTENCES)
    many = Texts(sentences, tokenizer, "mlm", False, MANY_SENTENCES)
    packed = Texts(sentences, tokenizer, "mlm", True, ROWS)
    lengths = [len(ids) for ids in padded.rows["input_ids"]]
    print(f"{len(lengths):,} sentences, {statistics.mean(lengths):.1f} tokens each; packed: {packed.report}")
    ours, theirs = our_bert(VOCABULARY, LENGTH).train(), peers.bert(VOCABULARY, LENGTH).train()
    check_equal(ours, theirs, peers.weights_of_bert, next(padded.batches()))
    sources = {"padded": padded.batches, "length buckets": lambda: padded.batches(sort=True)}
    buckets = ("length buckets", "transformers length buckets")
    pairs = {
        ("padded", "transformers padded"): 4.4,
        ("packed", "transformers padded"): 4.4,
        buckets: 2.3,
        ("packed", "transformers length buckets"): 2.3,
    }
    rows = []
    for dropout in (0.1, 0.0):  # 0.1 is the default of both
        ours, theirs = our_bert(VOCABULARY, LENGTH, dropout).train(), peers.bert(VOCABULARY, LENGTH, dropout).train()
        contenders = {kind: (ours, make()) for kind, make in {**sources, "packed": packed.batches}.items()}
        contenders |= {f"transformers {kind}": (theirs, make()) for kind, make in sources.items()}
        rows += compare(f"mlm, dropout {dropout:g}", per_token(contenders, rounds, tokenizer.pad_token_id), pairs)
        contenders = {buckets[0]: (ours, many.batches(sort=True)), buckets[1]: (theirs, many.batches(sort=True))}
        name = f"mlm, {MANY_SENTENCES} sentences, dropout {dropout:g}"
        rows += compare(name, per_token(contenders, rounds, tokenizer.pad_token_id), {buckets: pairs[buckets]})
    return rows


def causal(texts: list[str], tokenizer, rounds: int) -> list[dict]:
    """Packed rows on both sides, and texts each in a row of its own for the peer."""
    packed = Texts(texts, tokenizer, "clm", True, ROWS)
    print(f"packed: {packed.report}")
    padded = Texts(texts, tokenizer, "clm", False, ROWS)

    def rows() -> Iterator[dict]:
        for batch in padded.batches():
            real = batch["input_ids"] != tokenizer.pad_token_id
            yield {"input_ids": batch["input_ids"], "labels": batch["labels"], "attention_mask": real.long()}

    ours, theirs = our_gpt(VOCABULARY, LENGTH).train(), peers.gpt2(VOCABULARY, LENGTH).train()
    for batches in (packed.batches(), rows()):
        check_equal(ours, theirs, peers.weights_of_gpt2, next(batches))
    contenders = {"packed": (ours, packed.batches()), "padded": (ours, rows())}
    contenders |= {"GPT-2 packed": (theirs, packed.batches()), "GPT-2 padded": (theirs, rows())}
    pairs = {("packed", "GPT-2 packed"): 1.3, ("packed", "GPT-2 padded"): 2.0, ("padded", "GPT-2 padded"): None}
    return compare("clm", per_token(contenders, rounds, tokenizer.pad_token_id), pairs)


def spans(texts: list[str], tokenizer, rounds: int) -> list[dict]:
    """Full rows on both sides (texts end to end, as in the paper), and texts each in a row of its own."""
    pairs = {("packed", "T5 packed"): 1.3, ("padded", "T5 padded"): None, ("packed", "T5 padded"): 2.0}
    rows = []
    for size in (ROWS, MANY_ROWS):
        packed, padded = (Texts(texts, tokenizer, "span_corruption", packing, size) for packing in (True, False))
        ours, theirs = our_t5(VOCABULARY, LENGTH).train(), peers.t5(VOCABULARY).train()
        for source in (packed, padded):
            check_equal(ours, theirs, peers.weights_of_t5, next(source.batches()))
        for dropout in (0.1, 0.0):
            ours, theirs = our_t5(VOCABULARY, LENGTH, dropout).train(), peers.t5(VOCABULARY, dropout).train()
            contenders = {"packed": (ours, packed.batches()), "padded": (ours, padded.batches())}
            contenders |= {"T5 packed": (theirs, packed.batches()), "T5 padded": (theirs, padded.batches())}
            name = f"span corruption, {size} rows, dropout {dropout:g}"
            rows += compare(name, per_token(contenders, rounds, tokenizer.pad_token_id), pairs)
    return rows


class Nothing(torch.nn.Module):
    """A model whose step costs nothing: what is left is the loop's."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(8))

    def forward(self, **kwargs):
        return argparse.Namespace(loss=self.weight.sum())


def data_and_loop(texts: list[str], tokenizer, rounds: int, source: str) -> list[dict]:
    """What files, tokenizing and packing, and the loop cost beside a training step of GPT."""

    def seconds(run: Callable[[], object]) -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    made = []
    reading = seconds(lambda: load_texts(source, validation=0.0, test=0.0))
    making = seconds(lambda: made.append(Texts(texts, tokenizer, "clm", True, ROWS)))
    packed = made[0]
    tokens = packed.report.num_tokens
    model = our_gpt(VOCABULARY, LENGTH).train()
    step = stepper(model)
    batches = list(itertools.islice(packed.batches(), rounds + 2))
    model_us = 1e6 * statistics.median([seconds(lambda b=batch: step(b)) for batch in batches][2:])
    steps = 200
    options = loop.LoopOptions("unused", steps, per_device_batch_size=ROWS)
    loop_us = 1e6 * seconds(lambda: loop.train(Nothing(), packed.rows, packed.collate, options)) / steps
    per_step = count_tokens(batches[0], tokenizer.pad_token_id)
    rows = [
        row("reading the files", "GPT's training step", 1e6 * reading / tokens, model_us / per_step, None, "us/token"),
        row(
            "tokenizing and packing",
            "GPT's training step",
            1e6 * making / tokens,
            model_us / per_step,
            None,
            "us/token",
        ),
        row("the loop, batches included", "GPT's training step", loop_us, model_us, 50.0, "us/step"),
    ]
    print(
        f"the loop takes {loop_us / model_us:.2%} of a step; making {tokens:,} tokens {making:.1f} s of processor time"
    )
    return rows


def main() -> None:
    source = {"default": "stdlib:prose", "help": "built-in set, or a file with a column text"}
    options = arguments(__doc__, rounds=12, data=source)  # parts for --only: mlm, clm, span, data
    texts = load_texts(options.data, validation=0.0, test=0.0).train["text"][:]
    tokenizer = make_tokenizer(texts)
    parts = {"mlm": masked, "clm": causal, "span": spans}
    rows = [
        found
        for name, part in parts.items()
        if options.only in name
        for found in part(texts, tokenizer, options.rounds)
    ]
    if options.only in "data":
        rows += data_and_loop(texts, tokenizer, options.rounds, options.data)
    report(rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
