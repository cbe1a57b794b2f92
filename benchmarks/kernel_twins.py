"""Each twin of hf_genai/kernels beside its plain function: forward, and backward where the operation trains.

    OMP_NUM_THREADS=1 python benchmarks/kernel_twins.py --json twins.json
    OMP_NUM_THREADS=1 python benchmarks/kernel_twins.py --only rotate

The script measures each case in float32 and bfloat16, with one and two threads, and with the instructions of torch's
"default" capability, of an AVX2 processor, and of this one, each in a process of its own; on a GPU, if there is one.
The plain side runs with all twins but the one in question. Before it measures, the script checks that both sides
return the same values and gradients, unless they are random. "own" where the twin calls the plain function itself: it
chose so by size, dtype or device. A twin stays if it gains 1.1 or more in a case and loses more than 3 % in none.

This file is not called kernels.py: the scripts' folder is on Python's path, and transformers imports `kernels`.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from measure import machine, medians, parse_options, selected, timed
from peers_transformers import Sizes
from torch import Tensor
from train_transformers import our_bert, our_gpt, our_modern, our_t5

from hf_genai import kernels
from hf_genai.models import blocks, modeling_rnn, ops, recurrent_layers
from hf_genai.models.attention import AdditiveScore

assert modeling_rnn  # loading it installs the twins of its family
ATTENTION = "sdpa_attention"  # this twin is in the table of attention functions, not in that of operations
GAIN, LOSS = 1.1, 0.97
SAMPLE_SECONDS = 0.02  # of a measurement at least
# name of the instructions -> environment; the libraries behind torch and numpy have variables of their own
INSTRUCTIONS = {
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "native": {},
}
Run = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Case:
    """One use of a twin: `make` returns a function that runs it and returns outputs and gradients."""

    twin: str
    name: str
    make: Callable[[torch.dtype, torch.device], Run]
    small: bool = False
    random: bool = False


def inference(forward: Callable[[], object]) -> Run:
    @torch.no_grad()
    def run() -> Sequence[Tensor]:
        result = forward()
        return [result] if isinstance(result, Tensor) else list(result)

    return run


def training(forward: Callable[[], object], leaves: Sequence[Tensor]) -> Run:
    """Return a function that runs forward and backward, and returns outputs and gradients of the leaves."""
    gradients: list[Tensor] = []

    def run() -> Sequence[Tensor]:
        result = forward()
        outputs = [result] if isinstance(result, Tensor) else [x for x in result if x.requires_grad]
        if not gradients:
            gradients.extend(torch.randn_like(x) for x in outputs)
        return [*outputs, *torch.autograd.grad(outputs, leaves, gradients, allow_unused=True)]

    return run


def make_run(forward: Callable[[], object], leaves: Sequence[Tensor], trains: bool) -> Run:
    return training(forward, leaves) if trains else inference(forward)


def random(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(*shape, dtype=dtype, device=device, requires_grad=True)


def recurrence(dtype, device, *, hidden: int, batch: int, length: int, trains: bool, **layer_fields) -> Run:
    fields = {"cell_type": "gru", "input_feeding": True, "attention_type": "additive", **layer_fields}
    sizes = {"input_size": hidden, "hidden_size": hidden, "source_size": 2 * hidden, "attention_size": hidden}
    layer = recurrent_layers.GenaiRNNAttentionLayer(**fields, **sizes).to(device, dtype).train(trains)
    make = partial(random, dtype=dtype, device=device)
    parts = (1 if fields["cell_type"] == "gru" else 2) + fields["input_feeding"]
    inputs, start, source = make(batch, length, hidden), make(batch, parts, hidden), make(batch, 26, 2 * hidden)
    mask = torch.ones(batch, 26, dtype=torch.bool, device=device)
    mask[0, 20:] = False

    def forward():
        return layer(inputs, start, source, layer.attention.keys(source), mask)

    return make_run(forward, [inputs, start, source, *layer.parameters()], trains)


def source_attention(dtype, device, *, hidden: int, batch: int, length: int, trains: bool) -> Run:
    score = AdditiveScore(hidden).to(device, dtype)
    make = partial(random, dtype=dtype, device=device)
    query, keys, values = make(batch, length, hidden), make(batch, 26, hidden), make(batch, 26, 2 * hidden)
    mask = torch.ones(batch, 26, dtype=torch.bool, device=device)
    leaves = [query, keys, values, *score.parameters()]
    return make_run(lambda: recurrent_layers.attend_to_source(score, query, keys, values, mask), leaves, trains)


def elementwise(dtype, device, *, operation: str, shapes: Sequence[tuple], arguments: tuple, trains: bool) -> Run:
    """Run an operation of `ops` on tensors of these shapes, and more arguments."""
    tensors = [random(*shape, dtype=dtype, device=device) for shape in shapes]
    return make_run(lambda: getattr(ops, operation)(*tensors, *arguments), tensors, trains)


def rotation(dtype, device, *, batch: int, length: int, trains: bool) -> Run:
    vectors = random(batch, 4, length, 64, dtype=dtype, device=device)
    angles = torch.randn(1, length, 32, device=device).repeat(1, 1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return make_run(lambda: ops.rotate(vectors, cos, sin), [vectors], trains)


def model_step(dtype, device, *, make_model: Callable, inputs: Callable[[], dict], trains: bool = True) -> Run:
    """Run a model with labels: the loss, and in training the gradients."""
    model = make_model().to(device, dtype).train(trains)
    batch = {name: tensor.to(device) for name, tensor in inputs().items()}
    return make_run(lambda: model(**batch).loss, list(model.parameters()), trains)


def generation(dtype, device, *, make_model: Callable, batch: int, tokens: int) -> Run:
    model = make_model().to(device, dtype).eval()
    ids = torch.randint(3, model.config.vocab_size, (batch, 32), device=device)
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "num_beams": 1}
    return inference(lambda: model.generate(ids, **settings))


def full_rows(sizes: Sizes) -> dict:
    ids = torch.randint(3, sizes.vocab_size, (sizes.batch, sizes.length))
    return {"input_ids": ids, "labels": ids}


def source_and_target(sizes: Sizes) -> dict:
    source, target = torch.randint(3, sizes.vocab_size, (2, sizes.batch // 2, sizes.length))
    return {"input_ids": source, "labels": target}


def masked_rows(sizes: Sizes) -> dict:
    """Return rows whose lengths go down to a quarter, with labels at 15 % of their positions."""
    ids = torch.randint(3, sizes.vocab_size, (sizes.batch, sizes.length))
    lengths = torch.linspace(sizes.length // 4, sizes.length, sizes.batch).long()
    real = torch.arange(sizes.length) < lengths[:, None]
    chosen = real & (torch.arange(sizes.length) % 7 == 0)
    return {"input_ids": ids, "attention_mask": real.long(), "labels": ids.masked_fill(~chosen, -100)}


def packed_rows(sizes: Sizes) -> dict:
    """Return rows of four texts each."""
    positions = torch.arange(sizes.length) % (sizes.length // 4)
    return {**full_rows(sizes), "position_ids": positions.expand(sizes.batch, -1)}


SMALL, LARGE = Sizes(batch=2, length=64), Sizes(batch=16, length=128)
WIDE = Sizes(vocab_size=50257, hidden_size=512, heads=8, layers=2)
TINY = Sizes(vocab_size=64, batch=2, length=16, hidden_size=16, heads=2, layers=2)


def cases(smoke: bool) -> Iterator[Case]:
    """Yield the cases of all twins; in a smoke run, tiny ones."""
    kernel_sizes = [(True, 16, 2, 3)] if smoke else [(True, 64, 2, 26), (False, 256, 32, 26)]
    model_sizes = [(True, TINY)] if smoke else [(True, SMALL), (False, LARGE)]
    wide = TINY if smoke else WIDE
    for small, hidden, batch, length in kernel_sizes:
        size = {"hidden": hidden, "batch": batch, "length": length}
        label = f"{batch} rows, {length} steps, d {hidden}"
        for fed, score in ((True, "additive"), (True, "general"), (False, "additive")):
            make = partial(recurrence, **size, trains=True, input_feeding=fed, attention_type=score)
            name = f"GRU, {score}, {'input feeding' if fed else 'context before the cell'}, {label}, training"
            yield Case("attention_recurrence", name, make, small)
        make = partial(recurrence, **size, trains=True, cell_type="lstm")
        yield Case("attention_recurrence", f"LSTM, additive, input feeding, {label}, training", make, small)
        for steps in (1, length):
            make = partial(recurrence, hidden=hidden, batch=batch, length=steps, trains=False)
            name = f"GRU, additive, input feeding, {batch} rows, {steps} steps, d {hidden}, inference"
            yield Case("attention_recurrence", name, make, small)
        for trains in (True, False):
            name = f"{label}, {'training' if trains else 'inference'}"
            yield Case("attend_to_source", name, partial(source_attention, **size, trains=trains), small)
    for small, sizes in model_sizes:
        shape, label = (sizes.batch * sizes.length, sizes.hidden_size), f"{sizes.batch} x {sizes.length}"
        for name, shapes in {"dropout": [shape], "dropout_add": [shape, shape]}.items():
            make = partial(elementwise, operation=name, shapes=shapes, arguments=(0.1, True), trains=True)
            yield Case(name, f"{label} x {shape[1]}, training", make, small, random=True)
        norm_shapes = [(sizes.batch, sizes.length, shape[1]), shape[1:]]
        for trains in (True, False):
            mode = "training" if trains else "inference"
            make = partial(elementwise, operation="rms_norm", shapes=norm_shapes, arguments=(1e-6,), trains=trains)
            yield Case("rms_norm", f"{label} x {shape[1]}, {mode}", make, small)
            make = partial(rotation, batch=sizes.batch, length=sizes.length, trains=trains)
            yield Case("rotate", f"{label}, 4 heads of 64, {mode}", make, small)
        rows = {"sizes": sizes, "label": label, "small": small}
        yield model_case(ATTENTION, "GPT, dropout", partial(our_gpt, sizes, 0.1), full_rows, random=True, **rows)
        yield model_case(ATTENTION, "T5, dropout", partial(our_t5, sizes, 0.1), source_and_target, random=True, **rows)
        yield model_case(ATTENTION, "T5", partial(our_t5, sizes), source_and_target, **rows)
        yield model_case("run_stack", "BERT, padded rows", partial(our_bert, sizes), masked_rows, **rows)
        yield model_case("run_stack", "GPT, packed rows", partial(our_modern, sizes), packed_rows, **rows)
    for batch in (1, 8):
        for sizes in dict.fromkeys((model_sizes[-1][1], wide)):
            make_model = partial(our_gpt, sizes.__class__(**{**vars(sizes), "length": 64}))
            make = partial(generation, make_model=make_model, batch=batch, tokens=3 if smoke else 10)
            name = f"generate(), {batch} rows, GPT of d {sizes.hidden_size}, vocabulary {sizes.vocab_size}"
            for twin in ("run_stack", "score_vocabulary"):
                yield Case(twin, name, make, small=smoke)


def model_case(twin, name: str, make_model, inputs, sizes: Sizes, label: str, small: bool, random=False) -> Case:
    make = partial(model_step, make_model=make_model, inputs=partial(inputs, sizes))
    return Case(twin, f"{name}, {label}, training", make, small, random)


def twins() -> list[str]:
    """Return the names of all twins."""
    names = {name for table in kernels.TWINS.values() for name in table}
    return sorted(names | ({ATTENTION} if "sdpa" in vars(blocks).get("ATTENTION", ()) else set()))


@contextmanager
def without(twin: str) -> Iterator[None]:
    """Let the plain function run in place of one twin."""
    table, name = (blocks.ATTENTION, "sdpa") if twin == ATTENTION else (ops.TWINS, twin)
    removed = table[name]
    del table[name]
    try:
        yield
    finally:
        table[name] = removed


def calls_plain(twin: str, run: Run) -> bool:
    """Return whether the twin only calls the plain function."""
    if twin == ATTENTION:
        return False  # it has no plain function of ours
    original, calls = ops.TWINS[twin], []

    def recorded(plain, *args, **kwargs):
        plain_calls = []

        def counted(*inner_args, **inner_kwargs):
            plain_calls.append(True)
            return plain(*inner_args, **inner_kwargs)

        result = original(counted, *args, **kwargs)
        calls.append(bool(plain_calls))
        return result

    ops.TWINS[twin] = recorded
    try:
        run()
    finally:
        ops.TWINS[twin] = original
    return all(calls)


def check_equal(results: Sequence[Tensor], expected: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Raise unless two runs have the same values and gradients, up to rounding."""
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    for result, plain in zip(results, expected, strict=True):
        if result is None or plain is None or not plain.is_floating_point():
            continue
        scale = plain.abs().max().item() if plain.numel() else 0.0
        torch.testing.assert_close(result, plain, rtol=tolerance, atol=tolerance * max(scale, 1e-3))


def measure_case(case: Case, dtype: torch.dtype, device: torch.device, options) -> dict:
    torch.manual_seed(0)
    run = case.make(dtype, device)

    def run_plain():
        with without(case.twin):
            return run()

    torch.manual_seed(1)
    results = run()
    expected = run_plain()
    if not case.random:
        check_equal(results, expected, dtype)
    row = {
        "twin": case.twin,
        "case": case.name,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": options.threads,
    }
    if calls_plain(case.twin, run):
        return {**row, "own": True}
    seconds, _ = timed(run_plain, options.threads)
    repeats = 1 if options.smoke else max(1, round(SAMPLE_SECONDS / max(seconds, 1e-6)))

    def repeated(function: Run) -> Callable[[], None]:
        def repeat() -> None:
            for _ in range(repeats):
                function()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return repeat

    seconds = medians({"twin": repeated(run), "plain": repeated(run_plain)}, options)
    return {
        **row,
        "own": False,
        "plain_ms": 1e3 * seconds["plain"] / repeats,
        "twin_ms": 1e3 * seconds["twin"] / repeats,
        "ratio": seconds["plain"] / seconds["twin"],
    }


def work(options) -> None:
    """Measure in this process, and write the rows to --json."""
    device, rows = torch.device(options.device), []
    for case in cases(options.smoke):
        if case.twin not in twins() or not selected(f"{case.twin} {case.name}", options):
            continue
        for dtype in (torch.float32, torch.bfloat16):
            try:
                rows.append({**measure_case(case, dtype, device, options), "instructions": options.instructions})
            except Exception as error:
                raise RuntimeError(f"{case.twin}, {case.name}, {dtype}") from error
    options.json.write_text(json.dumps(rows))


def settings(smoke: bool) -> Iterator[tuple[str, int, str]]:
    """Yield (instructions, threads, device) of each process."""
    if smoke:
        yield "native", 1, "cpu"
        return
    for instructions, threads in itertools.product(INSTRUCTIONS, (1, 2)):
        yield instructions, threads, "cpu"
    if torch.cuda.is_available():
        yield "GPU", 1, "cuda"


def start_worker(instructions: str, threads: int, device: str, options, path: Path) -> list[dict]:
    command = [
        sys.executable,
        __file__,
        "--instructions",
        instructions,
        "--threads",
        str(threads),
        "--json",
        str(path),
    ]
    command += ["--device", device, "--only", options.only, "--rounds", str(options.rounds)]
    command += ["--smoke"] if options.smoke else []
    subprocess.run(command, check=True, env={**os.environ, **INSTRUCTIONS.get(instructions, {})})
    return json.loads(path.read_text())


def tables(rows: list[dict]) -> Iterator[str]:
    """Yield the lines of two tables: the ratio of each case in each setting, and a verdict for each twin."""
    columns = list(dict.fromkeys((r["instructions"], r["threads"]) for r in rows))
    names = [f"{instructions}, {threads} thr." for instructions, threads in columns]
    yield f"| twin | case | dtype | twin, ms | {' | '.join(names)} |"
    yield "| --- | --- | --- | --- |" + " --- |" * len(columns)
    by_case: dict[tuple, dict] = {}
    for r in rows:
        by_case.setdefault((r["twin"], r["case"], r["dtype"]), {})[r["instructions"], r["threads"]] = r
    for (twin, case, dtype), results in by_case.items():
        times = next((f"{r['twin_ms']:.3g}" for r in results.values() if not r["own"]), "-")
        cells = [
            "-" if c not in results else "own" if results[c]["own"] else f"{results[c]['ratio']:.2f}" for c in columns
        ]
        yield f"| {twin} | {case} | {dtype} | {times} | {' | '.join(cells)} |"
    yield ""
    yield "| twin | largest gain | largest loss | verdict |"
    yield "| --- | --- | --- | --- |"
    for twin in twins():
        measured = [r for r in rows if r["twin"] == twin and not r["own"]]
        if not measured:
            yield f"| {twin} | - | - | no case |"
            continue
        best, worst = (choose(measured, key=lambda r: r["ratio"]) for choose in (max, min))
        stays = best["ratio"] >= GAIN and worst["ratio"] >= LOSS
        yield f"| {twin} | {describe(best)} | {describe(worst)} | {'stays' if stays else 'goes'} |"


def describe(r: dict) -> str:
    return f"{r['ratio']:.2f} ({r['case']}, {r['dtype']}, {r['instructions']}, {r['threads']} thr.)"


def main() -> None:
    options = parse_options(
        __doc__,
        rounds=7,
        instructions={"default": "", "help": "measure in this process, under this name; used by the script itself"},
        device={"default": "cpu", "help": "device of this process"},
    )
    if options.instructions:
        work(options)
        return
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for instructions, threads, device in settings(options.smoke):
            rows += start_worker(instructions, threads, device, options, Path(folder, "rows.json"))
    about = machine(options) | {"threads": "1: processor time; 2: wall-clock time", "instructions": "see columns"}
    print("; ".join(f"{name}: {value}" for name, value in about.items()), "\n")
    print("\n".join(tables(rows)))
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
