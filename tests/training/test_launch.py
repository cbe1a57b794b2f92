"""Launch profiles, and runs that got less than they were asked for: the environments are accelerate's own."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from private_names import launch_arguments

from hf_genai.training.launch import check_launch, run_script

RECIPES = Path(__file__).parents[2] / "recipes"
PROFILES = sorted((RECIPES / "accelerate").glob("*.yaml"))
SHAPES = {"one": (1, "NO", "cpu"), "two": (2, "MULTI_CPU", "cpu"), "gpu": (2, "MULTI_GPU", "cuda")}


def environment(*options: str) -> dict[str, str]:
    """Return the variables that a process of `accelerate launch` OPTIONS finds."""
    arguments = launch_arguments([*options, "recipe.py"])
    if not (arguments.multi_gpu or arguments.use_fsdp):
        return prepare_simple_launcher_cmd_env(arguments)[1]
    world = {"WORLD_SIZE": str(arguments.num_processes), "LOCAL_RANK": "0"}  # torchrun's
    return {**prepare_multi_gpu_env(arguments), **world}


def check(found: str, variables: dict[str, str], precision: str = "no", num_processes: int | None = None) -> None:
    number, kind, device = SHAPES[found]
    state = SimpleNamespace(num_processes=number, distributed_type=kind, device=torch.device(device))
    check_launch(state, precision, num_processes, environment=variables)


@pytest.fixture(autouse=True)
def outside_of_a_launcher(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_are_read_by_accelerate_and_hold_no_unknown_key(path):
    profile = load_config_from_file(str(path))
    assert profile.distributed_type.value == yaml.safe_load(path.read_text("utf-8"))["distributed_type"]
    known = set(vars(launch_command_parser().parse_args(["recipe.py"])))
    assert set(profile.fsdp_config) <= known
    assert set(profile.deepspeed_config) <= known


def test_one_process_where_accelerate_was_asked_for_two_is_refused():
    with pytest.raises(ValueError, match="asked for: several processes; profile got: num_processes 1.*torchrun"):
        check("one", environment("--cpu", "--num_processes", "2"))
    with pytest.raises(ValueError, match="asked for: num_processes 3; profile got: num_processes 2"):
        check("two", {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, num_processes=3)
    with pytest.raises(ValueError, match="asked for: num_processes 2; profile got: num_processes 1.*--use_cpu true"):
        check("one", {"WORLD_SIZE": "2", "LOCAL_RANK": "0"})


@pytest.mark.parametrize("profile", ["ddp", "fsdp2"])
def test_a_profile_for_gpus_does_not_run_on_a_cpu(profile):
    path = next(path for path in PROFILES if path.stem == profile)
    variables = environment("--config_file", str(path), "--num_processes", "2")
    for found in ("one", "two"):
        with pytest.raises(ValueError, match="asked for:.* GPUs.*; profile got: .*device cpu.*no GPU was found"):
            check(found, variables, "bf16")
    if profile == "ddp":
        check("gpu", variables, "bf16")


def test_weights_that_are_not_divided_where_the_profile_says_so_are_refused():
    variables = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "ACCELERATE_USE_FSDP": "true"}
    state = SimpleNamespace(
        num_processes=2, distributed_type="MULTI_GPU", device=torch.device("cuda"), mixed_precision="no"
    )
    with pytest.raises(ValueError, match="asked for: distributed_type FSDP; profile got: .*MULTI_GPU"):
        check_launch(state, "no", environment=variables)
    state.distributed_type = "FSDP"
    check_launch(state, "no", environment=variables)
    with pytest.raises(ValueError, match=r"each process hold all weights: take recipes/accelerate/ddp\.yaml"):
        check_launch(state, "no", whole_weights=True, environment=variables)
    zero = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    state.distributed_type = "DEEPSPEED"
    check_launch(state, "no", whole_weights=True, environment=zero)
    with pytest.raises(ValueError, match=r"take recipes/accelerate/ddp\.yaml or zero2\.yaml"):
        check_launch(state, "no", whole_weights=True, environment={**zero, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"})


def test_another_precision_than_the_profiles_is_refused():
    variables = environment("--config_file", str(PROFILES[0]), "--mixed_precision", "bf16")
    with pytest.raises(ValueError, match="asked for: mixed_precision bf16; profile got:.*mixed_precision fp16"):
        check("one", variables, "fp16")


def test_runs_that_got_what_they_were_asked_for_start():
    check("one", environment("--config_file", str(PROFILES[0])))
    check("one", {})
    check("two", {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, num_processes=2)
    check("one", environment("--num_processes", "1", "--mixed_precision", "bf16"), "bf16")
    check("one", {"ACCELERATE_MIXED_PRECISION": "no"}, "bf16")  # of a launcher that was asked for none


@pytest.mark.parametrize(
    "config", ["pretrain_text/gpt_tiny", "finetune_text/classification", "train_seq2seq/rnn_tiny"]
)
def test_every_recipe_checks_its_launch_before_anything_is_made(config, tmp_path, monkeypatch):
    for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    recipe = importlib.import_module(f"recipes.{config.split('/')[0]}")
    path = RECIPES / "configs" / f"{config}.yaml"
    with pytest.raises(ValueError, match="asked for: several processes"):
        recipe.main([str(path), "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_script_that_is_interrupted_ends_in_a_line(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
