"""The training loop of the pretraining recipe, on Accelerate: one process on a laptop or many on GPUs, the same loop.

A step's batch, and whatever is drawn for it, depends on the seed and the step's number alone. So a run that was
stopped goes on where it was, bit by bit, and two processes see the very batches that one sees.
"""

import copy
import json
import logging
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, tqdm
from datasets import Dataset
from safetensors import SafetensorError
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from ..files import read_json
from .checkpoints import pickle_fault
from .optim import make_optimizer
from .trainer import StopOnSignal, TrainingInterrupted

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]
_CHECKPOINT = re.compile(r"checkpoint-\d+(\.unfinished)?")


@dataclass
class LoopOptions:
    """How long, how fast, and how often to look.

    A step's batch has per_device_batch_size x gradient_accumulation_steps x processes rows.
    """

    output_dir: str
    max_steps: int
    per_device_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.1
    adam_betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    mixed_precision: str | None = None
    eval_steps: int = 0
    save_steps: int = 0
    logging_steps: int = 10
    seed: int = 42

    def __post_init__(self):
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be a number above 0, not {self.learning_rate}")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm", "eval_steps", "save_steps"):
            if not 0 <= getattr(self, name) < math.inf:  # a norm below 0 turns the gradients round
                raise ValueError(f"{name} must be a number of at least 0, not {getattr(self, name)}")
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas must be two numbers from 0 to below 1, not {self.adam_betas}")
        try:
            self.schedule(torch.optim.SGD([torch.zeros(1)]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"lr_scheduler_type={self.lr_scheduler_type!r} does not fit here: {error}") from error

    def schedule(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """Return what sets the learning rate of each step."""
        scheduler = get_scheduler(self.lr_scheduler_type, optimizer, self.warmup_steps, self.max_steps)
        if not isinstance(scheduler, LambdaLR):
            raise ValueError("it follows a measured loss, and not the steps")
        return scheduler


@dataclass
class History:
    """What a run was like: loss of each step, held-out loss at each evaluation (nats per token), and its cost."""

    losses: list[float] = field(default_factory=list)
    evaluations: dict[int, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0


class Batches:
    """The batch of each step: rows shuffled anew each epoch, collated in a thread while the model works."""

    def __init__(self, rows: Dataset, collate: Callable[[list[dict]], Batch], batch_size: int, seed: int):
        if not len(rows):
            raise ValueError("rows is empty: there is nothing to train on")
        # a copy: an evaluation seeds the same collator while the thread collates the next step's batch
        self.rows, self.collate, self.batch_size, self.seed = rows, copy.copy(collate), batch_size, seed
        self._epochs: dict[int, list[int]] = {}

    def places(self, step: int) -> list[int]:
        """Return which rows make the batch of a step, 0 the first."""
        found = []
        for number in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, place = divmod(number, len(self.rows))
            if epoch not in self._epochs:
                generator = torch.Generator().manual_seed(self.seed + epoch)
                self._epochs = {epoch: torch.randperm(len(self.rows), generator=generator).tolist()}
            found.append(self._epochs[epoch][place])
        return found

    def __getitem__(self, step: int) -> Batch:
        if hasattr(self.collate, "generator"):
            self.collate.generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        columns = self.rows[self.places(step)]  # at once: quicker than one by one
        return self.collate([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])

    def from_step(self, start: int, end: int) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self.__getitem__, start)
            for step in range(start + 1, end + 1):
                batch = coming.result()
                if step < end:
                    coming = pool.submit(self.__getitem__, step)
                yield batch


def count_labels(batch: Batch) -> int:
    """Return how many tokens a batch predicts."""
    return int((batch["labels"] != -100).sum())


def parts(batch: Batch, size: int, number: int, index: int) -> Iterator[Batch]:
    """Yield what process `index` of `number` takes of a batch: `size` rows at a time."""
    rows = len(batch["input_ids"])
    for start in range(index * size, rows, number * size):
        yield {name: value[start : start + size] for name, value in batch.items()}


def gradient_step(model, accelerator: Accelerator, batch: Batch, size: int) -> tuple[Tensor, int]:
    """Add up the gradients of a batch, and return its loss (nats per token) and the number of tokens predicted.

    Each token counts the same, however the rows are divided among processes and parts: the sum of the losses is
    divided by the tokens of the whole batch. The loss stays on the device: reading it would wait for the step's end.
    """
    items = count_labels(batch)
    own = list(parts(batch, size, accelerator.num_processes, accelerator.process_index))
    total = torch.zeros((), device=accelerator.device)
    for place, part in enumerate(own):
        part = {name: value.to(accelerator.device, non_blocking=True) for name, value in part.items()}
        last = place == len(own) - 1  # processes exchange their gradients once a step
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                loss = model(**part, num_items_in_batch=max(items, 1)).loss
            accelerator.backward(loss * accelerator.num_processes)  # processes average their gradients
        total += loss.detach()
    return accelerator.reduce(total, "sum"), items


@torch.no_grad()
def evaluate(model, accelerator: Accelerator, rows: Dataset, collate, size: int, seed: int = 0) -> float:
    """Return the loss, in nats per predicted token, on all rows; draws are the same each time."""
    was_training = model.training
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device="cpu")
    batches = Batches(rows, collate, size * accelerator.num_processes, seed)
    for step in range(math.ceil(len(rows) / batches.batch_size)):
        left = len(rows) - step * batches.batch_size  # the last batch is filled up with rows of the next epoch
        batch = {name: value[:left] for name, value in batches[step].items()}
        own = list(parts(batch, size, accelerator.num_processes, accelerator.process_index))
        if not own:  # of weights that are divided, each process needs all: none may sit a batch out
            own = [{name: value[:1] for name, value in batch.items()}]
            own[0]["labels"] = torch.full_like(own[0]["labels"], -100)
        for part in own:
            items = count_labels(part)
            part = {name: value.to(accelerator.device) for name, value in part.items()}
            with accelerator.autocast():
                loss = model(**part, num_items_in_batch=1, skip_logits=True).loss
            sums += torch.tensor([loss.item(), items], dtype=torch.float64)
    model.train(was_training)
    total, items = accelerator.reduce(sums.to(accelerator.device, torch.float32), "sum").tolist()
    return total / max(items, 1)


def train(
    model: torch.nn.Module,
    rows: Dataset,
    collate: Callable[[list[dict]], Batch],
    options: LoopOptions,
    validation: Dataset | None = None,
    accelerator: Accelerator | None = None,
    resume_from: str | None = None,
) -> History:
    """Train a model.

    Args:
        model: its `forward` takes what `collate` returns, and `num_items_in_batch`.
        rows: of token ids, packed or not.
        collate: makes a batch of rows; its attribute `generator`, where it has one, is seeded for each step.
        validation: rows to measure the loss on, each `eval_steps` and at the end.
        resume_from: a checkpoint folder that this loop wrote.

    Returns:
        The losses of all steps, those before resuming included.

    Raises:
        ValueError: the checkpoint is of a run with other batches or another optimiser.
        TrainingInterrupted: on Ctrl-C or SIGTERM, once the checkpoint is saved.
    """
    accelerator = accelerator or Accelerator(mixed_precision=options.mixed_precision)
    size = options.per_device_batch_size
    if plugin := getattr(accelerator.state, "deepspeed_plugin", None):
        if options.gradient_accumulation_steps > 1:
            raise ValueError(
                f"gradient_accumulation_steps must be 1 with DeepSpeed, not {options.gradient_accumulation_steps}:"
                " raise per_device_batch_size or the number of processes"
            )
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = size  # else read from a data loader
        plugin.deepspeed_config["gradient_clipping"] = options.max_grad_norm or 0.0  # it clips by itself
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin and plugin.state_dict_type.name != "FULL_STATE_DICT":
        raise ValueError(
            f"fsdp_state_dict_type must be FULL_STATE_DICT, not {plugin.state_dict_type.name}: checkpoints in pieces"
            " cannot be read without running pickles"
        )
    optimizer = make_optimizer(model, options.learning_rate, options.weight_decay, options.adam_betas)
    scheduler = options.schedule(optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.prepared_model = model  # for `whole_model`: an attribute of our own
    batch_size = size * options.gradient_accumulation_steps * accelerator.num_processes
    batches, history = Batches(rows, collate, batch_size, options.seed), History()
    settings = {"batch_size": batch_size, "rows": len(rows)}
    settings |= {name: getattr(options, name) for name in ("seed", "learning_rate", "weight_decay", "adam_betas")}
    settings = json.loads(json.dumps(settings))  # as a checkpoint has them

    def save(step: int) -> Path:
        facts = {"settings": settings, "schedule": scheduler.state_dict()}
        return save_checkpoint(accelerator, history, options.output_dir, step, facts)

    if resume_from:
        if fault := checkpoint_fault(resume_from):
            raise ValueError(f"resume_from: cannot go on from {resume_from}: {fault}")
        saved = read_json(Path(resume_from) / "history.json")
        for name, value in saved.pop("settings").items():
            if value != settings[name]:
                raise ValueError(
                    f"{resume_from} belongs to a run whose {name} is {value}, not {settings[name]}: it cannot go on"
                )
        accelerator.load_state(resume_from)
        schedule = saved.pop("schedule")
        scheduler.load_state_dict({name: schedule[name] for name in scheduler.state_dict()})
        history = History(**{**saved, "evaluations": {int(s): loss for s, loss in saved["evaluations"].items()}})
    start = len(history.losses)
    unread: list[Tensor] = []
    bar = tqdm(initial=start, total=options.max_steps, desc="training", main_process_only=True)
    model.train()
    with StopOnSignal() as stop:
        began = time.perf_counter()
        for step, batch in enumerate(batches.from_step(start, options.max_steps), start + 1):
            # of dropout, too, so that it goes on the same after a stop
            torch.manual_seed(options.seed * 1_000_003 + step * accelerator.num_processes + accelerator.process_index)
            loss, items = gradient_step(model, accelerator, batch, size)
            if options.max_grad_norm:
                accelerator.clip_grad_norm_(model.parameters(), options.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            unread.append(loss)
            history.tokens += items
            shown = step % options.logging_steps == 0 or step == options.max_steps
            evaluated = validation is not None and options.eval_steps and step % options.eval_steps == 0
            stopped = signal_of_any(accelerator, stop.received) if shown or accelerator.num_processes == 1 else 0
            saved_now = stopped or (options.save_steps and step % options.save_steps == 0)
            if shown or evaluated or saved_now:
                read_losses(unread, history, options)
            history.seconds += time.perf_counter() - began
            if shown:
                bar.set_postfix_str(
                    f"loss {history.losses[-1]:.3f}, {history.tokens / history.seconds:,.0f} tokens/s", refresh=False
                )
            bar.update()
            if evaluated:
                history.evaluations[step] = evaluate(model, accelerator, validation, collate, size)
                logger.info("step %d: held-out loss %.4f nats per token", step, history.evaluations[step])
            if saved_now:
                folder = save(step)
                if stopped:
                    raise interrupted(stopped, folder, step, options)
            began = time.perf_counter()
        bar.close()
        if validation is not None and options.max_steps not in history.evaluations:
            history.evaluations[options.max_steps] = evaluate(model, accelerator, validation, collate, size)
        if stopped := signal_of_any(accelerator, stop.received):  # in the last evaluation
            folder = save(options.max_steps)
            raise interrupted(stopped, folder, options.max_steps, options)
    return history


def interrupted(number: int, folder: Path, step: int, options: LoopOptions) -> TrainingInterrupted:
    """Return what ends a run that a signal stopped, its checkpoint being saved."""
    return TrainingInterrupted(
        f"stopped by {signal.Signals(number).name} after step {step} of {options.max_steps}; {folder} is whole. Go on"
        " with the same command and --resume_from_checkpoint true",
        number,
    )


def read_losses(unread: list[Tensor], history: History, options: LoopOptions) -> None:
    """Move the losses of the last steps from the device into the history.

    Raises:
        FloatingPointError: one is no number; names its step.
    """
    for value in torch.stack(unread).tolist():
        history.losses.append(value)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of step {len(history.losses)} is {value}: lower learning_rate ({options.learning_rate}), or"
                " raise warmup_steps"
            )
    unread.clear()


def signal_of_any(accelerator: Accelerator, received: int) -> int:
    """Return a signal that some process got, 0 if none did: they get it at different steps, but must save together."""
    if accelerator.num_processes == 1:
        return received
    return int(accelerator.gather(torch.tensor([received], device=accelerator.device)).max())


def whole_model(model_class: type, model: Any, accelerator: Accelerator) -> Any:
    """Return the trained model with all its weights in the first process, None in the others; all must call this.

    Args:
        model_class: of the model before training, as dividing weights (FSDP) changes the class.
    """
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        weights = accelerator.get_state_dict(accelerator.prepared_model)  # gathers what was divided
        if accelerator.is_main_process:
            whole = model_class(model.config)
            whole.load_state_dict(weights)
            return whole.eval()
    return accelerator.unwrap_model(model) if accelerator.is_main_process else None


def save_checkpoint(
    accelerator: Accelerator, history: History, output_dir: str, step: int, facts: dict[str, Any]
) -> Path:
    """Write a checkpoint beside the old one, and delete that only when the new one is whole.

    Args:
        facts: what history.json holds besides the history: the settings, and the state of the schedule.

    Raises:
        OSError: it could not be written (full disk); what was there before is as it was.
    """
    folder = Path(output_dir) / f"checkpoint-{step}"
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    try:
        accelerator.save_state(str(unfinished))
        if accelerator.is_main_process:
            (unfinished / "history.json").write_text(json.dumps({**asdict(history), **facts}))
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save raises RuntimeError on a full disk
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OSError(f"could not save {folder}: {error}. Earlier checkpoints are as they were; make room") from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        for other in Path(output_dir).glob("checkpoint-*"):  # but for folders that the user named
            if other != folder and other.is_dir() and _CHECKPOINT.fullmatch(other.name):
                shutil.rmtree(other)
    accelerator.wait_for_everyone()
    return folder


def checkpoint_fault(folder: str | os.PathLike) -> str | None:
    """Return why a checkpoint of this loop cannot be gone on from, None if it is whole."""
    try:
        lacking = {"settings", "schedule", "losses", "evaluations"} - set(read_json(Path(folder) / "history.json"))
    except FileNotFoundError:
        return "history.json is missing"
    except (OSError, ValueError) as error:
        return str(error)
    if custom := sorted(path.name for path in Path(folder).glob("custom_checkpoint_*")):
        return f"{custom[0]} is a pickle, which can run any code: it is not read"
    return f"history.json lacks {', '.join(sorted(lacking))}" if lacking else pickle_fault(folder)


def summary(history: History) -> dict[str, Any]:
    """Return what results.json holds of a run."""
    last = max(history.evaluations, default=None)
    loss = None if last is None else history.evaluations[last]
    return {
        "steps": len(history.losses),
        "tokens": history.tokens,
        "train_seconds": round(history.seconds, 1),
        "tokens_per_second": round(history.tokens / history.seconds) if history.seconds else None,
        "train_loss": round(history.losses[-1], 4) if history.losses else None,
        "loss": None if loss is None else round(loss, 4),
        "perplexity": None if loss is None else round(math.exp(min(loss, 50)), 2),
    }
