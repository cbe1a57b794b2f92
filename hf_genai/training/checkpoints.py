"""Which checkpoint may be resumed from, and which output folder may be written to."""

import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from pickle import UnpicklingError

from filelock import FileLock, Timeout

from ..files import read_json
from ..model_folder import check_checkpoint

logger = logging.getLogger(__name__)

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_LOCK, _HOLDER = ".run.lock", ".run.json"  # hidden, and so never pushed
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"}
# beside what torch knows: arrays of random states, and what DeepSpeed's files hold, which are numbers with a name
_HARMLESS = {
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
    *("numpy.ndarray", "numpy.dtype"),
    *(f"deepspeed.runtime.fp16.loss_scaler.{name}" for name in ("LossScaler", "DynamicLossScaler")),
    *("deepspeed.runtime.zero.config.ZeroStageEnum", "deepspeed.utils.tensor_fragment.fragment_address"),
}


def _checkpoints(folder: str | os.PathLike) -> list[Path]:
    """Return the folders `checkpoint-N`, newest step first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if path.is_dir() and _CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def checkpoint_fault(folder: str | os.PathLike) -> str | None:
    """Return why a checkpoint cannot be resumed from, None if it is whole.

    Found are an unfinished save (marker file), missing files, weights or optimizer states that were cut off, and
    pickles that would run code.
    """
    try:
        check_checkpoint(Path(folder))
    except ValueError as error:
        return str(error)
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt"):
        if not (Path(folder) / name).is_file():
            return f"{name} is missing"
    return pickle_fault(folder)


def pickle_fault(folder: str | os.PathLike) -> str | None:
    """Return which pickle of a checkpoint asks for more than tensors, numbers and names when it is read, None if none.

    A pickle can run any code. torch and transformers load what they wrote by `weights_only`, Accelerate and DeepSpeed
    some files without: what passes here does no harm in either way.
    """
    from numpy import dtypes
    from torch.serialization import get_unsafe_globals_in_checkpoint

    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder)
        if path.name == ".metadata" or path.suffix == ".distcp":
            return f"{name} is of a checkpoint in pieces, which cannot be read without running pickles"
        if path.name == "training_args.bin" or path.suffix not in _PICKLES or not path.is_file():
            continue  # nobody reads the arguments
        try:
            unknown = set(get_unsafe_globals_in_checkpoint(path)) - _HARMLESS
        except (ValueError, RuntimeError, UnpicklingError) as error:
            return f"{name} cannot be checked for code, so that it is not read: {error}"
        unknown -= {f"numpy.dtypes.{each}" for each in dir(dtypes)}
        if unknown:
            return f"{name} would run {', '.join(sorted(unknown))} when it is read: take a checkpoint of your own"
    return None


def checkpoint_to_resume(
    output_dir: str | os.PathLike,
    resume_from_checkpoint: str | None,
    fault_of: Callable[[str | os.PathLike], str | None] = checkpoint_fault,
) -> str | None:
    """Return the checkpoint folder to go on from; None to start anew.

    Args:
        resume_from_checkpoint: None or "false" to start anew; "true" for the last whole checkpoint in output_dir,
            where broken ones are skipped with a warning; else a checkpoint folder, which must be whole.
        fault_of: says why a folder is not whole, None if it is; by default, of Trainer's checkpoints.

    Raises:
        ValueError: if the checkpoint asked for is broken, or there is none.
    """
    if resume_from_checkpoint is None or resume_from_checkpoint.lower() == "false":
        return None
    if resume_from_checkpoint.lower() != "true":
        fault = fault_of(resume_from_checkpoint)
        if fault:
            raise ValueError(f"resume_from_checkpoint: cannot go on from {resume_from_checkpoint}: {fault}")
        return resume_from_checkpoint
    for folder in _checkpoints(output_dir):
        fault = fault_of(folder)
        if fault is None:
            return str(folder)
        logger.warning("resume_from_checkpoint: skipping %s: %s", folder, fault)
    raise ValueError(
        f"resume_from_checkpoint: no checkpoint to go on from: {output_dir} holds no whole checkpoint; start anew with"
        " --overwrite_output_dir true"
    )


@contextmanager
def sole_run(output_dir: str | os.PathLike, is_main: bool = True) -> Iterator[None]:
    """Keep a folder to one run, which makes it if it is not there; a process that dies keeps it no longer.

    Args:
        is_main: whether this is the first process of its run; the others rely on it.

    Raises:
        ValueError: another run is in the folder; names its process, host and start.
    """
    folder = Path(output_dir)
    if not is_main or folder.is_file():  # `prepare_output_dir` refuses a file
        yield
        return
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / _LOCK, timeout=0), folder / _HOLDER
    try:
        lock.acquire()
    except Timeout as error:
        who = "another run"
        with suppress(OSError, ValueError, KeyError):  # it is about to say who it is, or has just ended
            facts = read_json(holder)
            who = f"the run of process {facts['pid']} on {facts['host']}, since {facts['since']}"
        raise ValueError(f"output_dir: {folder} is in use by {who}: end that one, or give another folder") from error
    try:
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}), "utf-8")
        yield
    finally:
        for name in (_HOLDER, _LOCK):
            (folder / name).unlink(missing_ok=True)
        lock.release()
        if not existed and not any(folder.iterdir()):
            folder.rmdir()


def prepare_output_dir(output_dir: str | os.PathLike, overwrite: bool, checkpoint: str | os.PathLike | None) -> None:
    """Make the folder of a run, or refuse one that holds something.

    A run goes on in its folder only if `checkpoint` lies there; one from elsewhere starts a folder of its own.

    With `overwrite`, `delete_earlier_run` is to follow once everything is ready to train: a run that is refused for
    its data or its model takes nothing away.

    Raises:
        ValueError: if the folder is not empty and the run neither goes on in it nor overwrites it, or if both.
    """
    folder = Path(output_dir)
    resume = False
    if checkpoint is not None:  # by its name or, behind a link, by its place
        parents = (Path(os.path.abspath(checkpoint)).parent.resolve(), Path(checkpoint).resolve().parent)
        resume = folder.resolve() in parents
    if overwrite and resume:
        raise ValueError("overwrite_output_dir and resume_from_checkpoint exclude each other: give one of them")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir: {folder} is a file")
    names = {path.name for path in folder.iterdir()} - {_LOCK, _HOLDER} if folder.is_dir() else set()
    if names and not (overwrite or resume):
        raise ValueError(
            f"output_dir: {folder} is not empty. Give another --output_dir, go on with its run by "
            "--resume_from_checkpoint true, or replace it by --overwrite_output_dir true"
        )
    folder.mkdir(parents=True, exist_ok=True)


def delete_earlier_run(output_dir: str | os.PathLike) -> None:
    """Delete the checkpoints of an earlier run, as resuming would mix the runs; each is named in a warning.

    Its other files stay until this run replaces them, and files that are nobody's stay for good.
    """
    for path in _checkpoints(output_dir):
        logger.warning("overwrite_output_dir: deleting %s", path)
        shutil.rmtree(path)
    (Path(output_dir) / "results.json").unlink(missing_ok=True)  # else a failed run would show the earlier one's
