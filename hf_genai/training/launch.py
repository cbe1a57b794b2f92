"""Whether a run is what its launcher was asked for, and how a script ends.

Accelerate falls back in silence, and many times slower.
"""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

# what the profiles of recipes/accelerate set -> the distributed_type that Accelerator then has
_SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED"}


def check_launch(
    state: Any,
    mixed_precision: str,
    num_processes: int | None = None,
    whole_weights: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Refuse a run that got less than it was asked for, before any data is loaded.

    What was asked for stands in the variables that `accelerate launch` and `torchrun` set. `accelerate launch --cpu
    --num_processes 2` starts one process and sets no WORLD_SIZE, but a MASTER_ADDR; a profile for GPUs runs on the CPU
    where there is none.

    Args:
        state: of Accelerate: `Accelerator.state`, or `TrainingArguments.distributed_state`, which does not know yet
            whether weights will be divided.
        mixed_precision: of the run: "no", "bf16" or "fp16".
        num_processes: the number that the user wants, where one was given.
        whole_weights: the recipe saves and scores its model in one process, and so cannot have its weights divided.
        environment: the variables, for tests.

    Raises:
        ValueError: names what was asked for and what there is.
    """
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in environment
    started = "WORLD_SIZE" in environment or "LOCAL_RANK" in environment
    sharded = next((kind for name, kind in _SHARDED.items() if environment.get(name, "").lower() == "true"), None)
    on_gpus = sharded or (by_accelerate and started and environment.get("ACCELERATE_USE_CPU", "").lower() != "true")
    device, kind = state.device.type, str(getattr(state.distributed_type, "value", state.distributed_type))
    asked: list[str] = []
    advice: list[str] = []

    wanted = num_processes or (int(environment["WORLD_SIZE"]) if "WORLD_SIZE" in environment else None)
    if wanted is None and by_accelerate and "MASTER_ADDR" in environment:
        asked.append("several processes")
        advice.append("`accelerate launch` starts one process where there is no GPU: use `torchrun --nproc_per_node`")
    elif wanted not in (None, state.num_processes):
        asked.append(f"num_processes {wanted}")
        if num_processes:
            advice.append("start them by torchrun, or by `accelerate launch` with a profile of recipes/accelerate")
        elif not on_gpus:
            advice.append("on a CPU, the processes of this recipe need --use_cpu true to find each other")
    if on_gpus and device == "cpu":
        asked.append("GPUs")
        advice.append("no GPU was found, or use_cpu was given: start it by recipes/accelerate/cpu.yaml or by torchrun")
    if sharded:
        asked.append(f"distributed_type {sharded}")
    stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    if whole_weights and (sharded == "FSDP" or stage == "3"):
        advice.append("this recipe has each process hold all weights: take recipes/accelerate/ddp.yaml or zero2.yaml")
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", mixed_precision):
        asked.append(f"mixed_precision {precision}")
        advice.append(f"make the recipe's precision {precision}, or the profile's {mixed_precision}")
    if advice or (sharded and hasattr(state, "mixed_precision") and kind != sharded):
        raise ValueError(
            f"profile asked for: {', '.join(asked)}; profile got: num_processes {state.num_processes},"
            f" distributed_type {kind}, device {device}, mixed_precision {mixed_precision}"
            + "".join(f"; {line}" for line in advice)
        )


def run_script(main: Callable[[], Any]) -> None:
    """Run a recipe as a script: an interruption ends it in a line and with the shell's exit code, 128 + signal."""
    from .trainer import TrainingInterrupted

    try:
        main()
        end_group()
    except TrainingInterrupted as interruption:
        print(interruption, file=sys.stderr)
        sys.exit(interruption.exit_code)
    except KeyboardInterrupt:  # before training, where there is nothing to save
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def end_group() -> None:
    """End the group of a distributed run: its threads, still there at exit, can abort a process whose work is done."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
