"""Trainer and Seq2SeqTrainer as the recipes use them: labels smoothed by the model, every held-out row scored, and
checkpoints that are whole or refused."""

import copy
import logging
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Seq2SeqTrainer, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import rotate_checkpoints

from ..data import save_tokenizers
from ..files import read_json
from ..model_folder import INCOMPLETE_MARKER, foreign_code
from ..private_names import TrainerHooks

logger = logging.getLogger(__name__)


class TrainingInterrupted(Exception):
    """Training stopped on a signal, after its checkpoint was saved. `exit_code` is the shell's: 128 + signal."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


class StopOnSignal(TrainerCallback):
    """On Ctrl-C or SIGTERM: end the step, save a checkpoint, raise TrainingInterrupted. A second one stops at once.

    Use it as a callback of the trainer and as a context manager around `train()` and the saving of its result: a
    signal after the last step ends the `with` block by TrainingInterrupted, when all of it is done.
    """

    def __init__(self):
        self.received = 0
        self.stopping = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.received and not self.stopping and error[0] is None:
            name = signal.Signals(self.received).name
            raise TrainingInterrupted(
                f"stopped by {name} after the last step: the trained weights are saved, but not scored; "
                "`hf-genai evaluate` does that for translators",
                self.received,
            )

    def _receive(self, number: int, frame) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        name = signal.Signals(number).name
        print(f"\n{name}: saving after this step; once more to stop now without", file=sys.stderr)

    def on_step_end(self, args, state, control, **kwargs):
        received = self.received
        if args.world_size > 1:  # processes get the signal at different steps, but must save together
            flag = torch.tensor(received, device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            received = int(flag)
        if received:
            self.received, self.stopping, control.should_save = received, True, True

    def on_save(self, args, state, control, **kwargs):
        if self.stopping:
            name = signal.Signals(self.received).name
            raise TrainingInterrupted(
                f"stopped by {name} after step {state.global_step} of {state.max_steps}; "
                f"{Path(args.output_dir) / f'checkpoint-{state.global_step}'} is whole. "
                "Go on with the same command and --resume_from_checkpoint true",
                self.received,
            )


class StopOnDivergence(TrainerCallback):
    """End a training whose weights are no numbers any more, which Trainer goes on with, and saves.

    Seen are the norms of gradients that are logged, but not under float16, where a scaler steps back from those that
    overflow; and, at the end, the weights.

    Raises:
        FloatingPointError: names what is no number, and what may help.
    """

    def on_log(self, args, state, control, logs=None, **kwargs):
        norm = (logs or {}).get("grad_norm", 0.0)
        if not (args.fp16 or math.isfinite(norm)):
            self._stop(f"the norm of the gradients is {norm}", args, state)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if not all(torch.isfinite(weight).all() for weight in model.parameters()):
            self._stop("the trained weights are not all numbers", args, state)

    def _stop(self, what: str, args: Any, state: Any) -> None:
        raise FloatingPointError(
            f"{what} (step {state.global_step}): lower learning_rate ({args.learning_rate}), or raise warmup_steps"
        )


class TrainingClock(TrainerCallback, ExportableState):
    """Measures a training in seconds, over all the times that it was stopped and resumed.

    Each checkpoint holds the seconds up to it, so what was trained after the last checkpoint, and is trained again,
    counts once.
    """

    def __init__(self):
        self.before, self._began = 0.0, None

    @property
    def seconds(self) -> float:
        """Seconds since the training began, those before the checkpoint that it went on from included."""
        return self.before + (0.0 if self._began is None else time.perf_counter() - self._began)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of this callback."""
        return {"args": {}, "attributes": {"before": round(self.seconds, 3)}}

    def begin(self, checkpoint: str | None) -> None:
        """Start to measure; `checkpoint` is the folder to go on from, None for a training from its first step."""
        self._began = time.perf_counter()
        if checkpoint is not None:  # by hand: the Trainer restores callbacks only where asked to
            saved = read_json(Path(checkpoint) / "trainer_state.json")
            own = saved.get("stateful_callbacks", {}).get(type(self).__name__, {})
            self.before = float(own.get("attributes", {}).get("before", 0.0))

    def on_train_begin(self, args, state, control, **kwargs):
        if self._began is None:  # a Trainer that restores callbacks puts a new one in this one's place
            self._began = time.perf_counter()


class ShuffledLengthGroupedSampler(LengthGroupedSampler):
    """Batches of similar length in random order; transformers' own come from long to short, fifty times over.

    Long runs of one length pull the weights to and fro: in the demo, BLEU ends 3 points lower. The longest batch stays
    first, so that memory runs out at once if it does.
    """

    def __iter__(self):
        indices = list(super().__iter__())
        batches = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        first, *middle, last = [[], *batches] if len(batches) < 2 else batches  # the last one may be shorter
        order = torch.randperm(len(middle), generator=self.generator).tolist()
        return iter([index for batch in (first, *(middle[place] for place in order), last) for index in batch])


class GenaiTrainer(TrainerHooks, Trainer):
    """Trainer that differs in these points.

    Batches grouped by length come in random order.

    Label smoothing: transformers' smoother takes the labels away from the model and needs all logits at once. A model
    that says `smooths_labels` does so inside its own, chunked loss instead.

    How batches are made is for training alone: each row that is to be scored is scored, in the order of the rows, so
    that outputs stand beside their references. transformers' own evaluation follows `dataloader_drop_last` and the
    grouping by length.

    Checkpoints: a marker file stands in the folder until the last byte is written, older checkpoints are deleted only
    then, and a failed save (full disk) removes what it wrote and says so.

    Tied weights are not reported as missing when a checkpoint is loaded: it holds them once.
    """

    def __init__(self, *args, tokenizers: tuple[Any, Any] | None = None, **kwargs):
        """Take what transformers' trainer takes, and the source and target tokenizer, which each checkpoint gets too.

        Raises:
            ValueError: `dataloader_drop_last` leaves nothing to train on.
        """
        super().__init__(*args, **kwargs)
        self.tokenizers = tokenizers
        self.smooths_inside = False
        if self.label_smoother is not None and getattr(self.model, "smooths_labels", False):
            self.label_smoother, self.smooths_inside = None, True
        rows = 0 if self.train_dataset is None else len(self.train_dataset)  # type: ignore[arg-type]
        batch = self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and 0 < rows < batch:
            raise ValueError(
                f"dataloader_drop_last must be false, or per_device_train_batch_size smaller: {rows} training rows do"
                f" not fill one batch of {batch}, so that all of them would be dropped"
            )

    @contextmanager
    def _all_rows_in_order(self) -> Iterator[None]:
        args = self.args
        kept = args.dataloader_drop_last, args.train_sampling_strategy
        args.dataloader_drop_last, args.train_sampling_strategy = False, "sequential"
        try:
            yield
        finally:
            args.dataloader_drop_last, args.train_sampling_strategy = kept

    def get_eval_dataloader(self, eval_dataset=None):
        with self._all_rows_in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        with self._all_rows_in_order():
            return super().get_test_dataloader(test_dataset)

    def arrange(self, sampler):
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        # the processes of a distributed run take turns: what they take together should be of one length
        size = sampler.batch_size * self.args.world_size
        return ShuffledLengthGroupedSampler(size, lengths=list(sampler.lengths))  # a Column of datasets is slow

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.smooths_inside and model.training:  # the evaluation loss is the plain one
            inputs = {**inputs, "label_smoothing": self.args.label_smoothing_factor}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def forgive_missing(self, load_result):
        for name in self.model.all_tied_weights_keys:  # saved once, under the name that they are tied to
            if name in load_result.missing_keys:
                load_result.missing_keys.remove(name)

    def save_whole_checkpoint(self, run, write):
        folder = Path(run) / f"checkpoint-{self.state.global_step}"
        marker, existed, limit = folder / INCOMPLETE_MARKER, folder.exists(), self.args.save_total_limit
        self.args.save_total_limit = None  # delete nothing older before this one is whole
        try:
            if self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                marker.write_text(f"step {self.state.global_step}: this checkpoint is being written\n")
            write()
            if self.args.should_save:
                if self.tokenizers is not None:
                    save_tokenizers(folder, *self.tokenizers)
                foreign_code(folder, remove=True)  # that a base model or its tokenizer names
                marker.unlink()
        except (OSError, RuntimeError, SafetensorError) as error:  # torch.save raises RuntimeError on a full disk
            if not existed:
                shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"could not save {folder}: {error}. The unfinished folder was removed, earlier checkpoints are as "
                "they were; make room, then go on with --resume_from_checkpoint true"
            ) from error
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(run, limit, self.state.best_model_checkpoint, use_mtime=True)


class GenaiSeq2SeqTrainer(GenaiTrainer, Seq2SeqTrainer):
    """Seq2SeqTrainer with the points of `GenaiTrainer`, and one more.

    Generation: the evaluation does not write defaults such as max_length=20 into the model's generation config.
    """

    def prediction_step(self, *args, **kwargs):
        kept, self.model.generation_config = self.model.generation_config, copy.deepcopy(self.model.generation_config)
        try:
            return super().prediction_step(*args, **kwargs)
        finally:
            self.model.generation_config = kept
