import errno
import pickle
import random
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hf_genai.training.checkpoints import (
    checkpoint_fault,
    checkpoint_to_resume,
    delete_earlier_run,
    prepare_output_dir,
    sole_run,
)


def make_checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_file({"weight": torch.ones(64)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({"state": torch.ones(64)}, folder / name)
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    (folder / "config.json").write_text("{}")
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_whole_checkpoint_has_no_fault(tmp_path):
    assert checkpoint_fault(make_checkpoint(tmp_path / "checkpoint-1")) is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"])
@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_checkpoint_cut_in_half_or_lacking_a_file_is_not_resumed_from(tmp_path, name, damage):
    good, bad = make_checkpoint(tmp_path / "checkpoint-9"), make_checkpoint(tmp_path / "checkpoint-10")
    damage(bad / name)
    assert name.split(".")[0] in checkpoint_fault(bad)
    assert checkpoint_to_resume(tmp_path, "true") == str(good)  # 10 is newer than 9, but broken
    with pytest.raises(ValueError, match="checkpoint-10"):
        checkpoint_to_resume(tmp_path, str(bad))


HOLDER = """
import sys, time
from hf_genai.training.checkpoints import sole_run
with sole_run(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_belongs_to_one_run_until_its_process_dies(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            who = f"process {other.pid} on {re.escape(socket.gethostname())}, since 20"
            with (
                pytest.raises(ValueError, match=f"output_dir: {folder} is in use by the run of {who}"),
                sole_run(folder),
            ):
                pytest.fail("two runs in one folder")
            with sole_run(folder, is_main=False):  # of a run that its first process has made sure of
                assert folder.is_dir()
        finally:
            other.kill()
    assert any(folder.iterdir())
    with sole_run(folder):
        prepare_output_dir(folder, overwrite=False, checkpoint=None)  # what the dead one left is no run
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_a_run_that_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), sole_run(tmp_path / "deep" / "run"):
        raise RuntimeError
    assert not (tmp_path / "deep" / "run").exists()


class Hostile:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("form", ["torch", "protocol 4", "legacy", "pickle"])
def test_a_checkpoint_with_a_pickle_that_runs_code_is_refused_and_runs_none(tmp_path, name, form):
    folder, ran = make_checkpoint(tmp_path / "checkpoint-3"), tmp_path / "ran"
    content = {"state": torch.ones(2), "hostile": Hostile(ran)}
    options = {"protocol 4": {"pickle_protocol": 4}, "legacy": {"_use_new_zipfile_serialization": False}}
    if form == "pickle":
        (folder / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, folder / name, **options.get(form, {}))
    for asked in ("true", str(folder)):
        with pytest.raises(ValueError):
            checkpoint_to_resume(tmp_path, asked)
    assert name in checkpoint_fault(folder)
    assert not ran.exists()


def test_random_states_are_no_code(tmp_path):
    folder = make_checkpoint(tmp_path / "checkpoint-3")
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    torch.save(states, folder / "rng_state.pth")
    assert checkpoint_fault(folder) is None


def test_an_unfinished_checkpoint_is_skipped_with_a_warning(tmp_path, caplog):
    good, bad = make_checkpoint(tmp_path / "checkpoint-1"), make_checkpoint(tmp_path / "checkpoint-2")
    (bad / "checkpoint-is-incomplete.txt").write_text("")
    assert checkpoint_to_resume(tmp_path, "true") == str(good)
    assert "checkpoint-2" in caplog.text


def test_nothing_to_resume_is_an_error_and_not_a_new_run(tmp_path):
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint_to_resume(tmp_path, "true")
    assert checkpoint_to_resume(tmp_path, None) is None


def test_the_last_checkpoint_is_the_one_of_the_highest_step(tmp_path):
    make_checkpoint(tmp_path / "checkpoint-9")
    last = make_checkpoint(tmp_path / "checkpoint-10")
    assert checkpoint_to_resume(tmp_path, "True") == str(last)  # as Python writes what YAML reads
    assert checkpoint_to_resume(tmp_path, "False") is None


def test_a_run_goes_on_in_its_folder_from_a_link_there_and_a_file_is_no_folder(tmp_path):
    elsewhere = make_checkpoint(tmp_path / "disk" / "checkpoint-1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-1").symlink_to(elsewhere)
    prepare_output_dir(tmp_path / "run", overwrite=False, checkpoint=tmp_path / "run" / "checkpoint-1")
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match="output_dir: .*notes is a file"):
        prepare_output_dir(tmp_path / "notes", overwrite=True, checkpoint=None)


def test_an_output_folder_that_holds_something_is_refused(tmp_path):
    make_checkpoint(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ValueError, match="not empty.*resume_from_checkpoint.*overwrite_output_dir"):
        prepare_output_dir(tmp_path / "run", overwrite=False, checkpoint=None)
    with pytest.raises(ValueError, match="exclude each other"):
        prepare_output_dir(tmp_path / "run", overwrite=True, checkpoint=tmp_path / "run" / "checkpoint-1")
    prepare_output_dir(tmp_path / "run", overwrite=False, checkpoint=tmp_path / "run" / "checkpoint-1")
    assert (tmp_path / "run" / "checkpoint-1").is_dir()


def test_a_checkpoint_of_another_run_does_not_make_way_for_this_one(tmp_path):
    other = make_checkpoint(tmp_path / "other" / "checkpoint-2")
    make_checkpoint(tmp_path / "two" / "checkpoint-1")
    with pytest.raises(ValueError, match="two is not empty"):
        prepare_output_dir(tmp_path / "two", overwrite=False, checkpoint=other)
    (tmp_path / "link").symlink_to(tmp_path / "two" / "checkpoint-1")
    with pytest.raises(ValueError, match="exclude each other"):  # else it would be deleted before it is read
        prepare_output_dir(tmp_path / "two", overwrite=True, checkpoint=tmp_path / "link")
    prepare_output_dir(tmp_path / "two", overwrite=True, checkpoint=other)
    delete_earlier_run(tmp_path / "two")
    assert checkpoint_fault(other) is None and not list((tmp_path / "two").iterdir())


def test_overwriting_deletes_the_checkpoints_and_nobody_elses_files(tmp_path, caplog):
    make_checkpoint(tmp_path / "checkpoint-1")
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "checkpoint-of-mine").mkdir()
    (tmp_path / "results.json").write_text("{}")  # of the earlier run: a failed one would seem to have them
    prepare_output_dir(tmp_path, overwrite=True, checkpoint=None)
    assert (tmp_path / "checkpoint-1").is_dir()  # until this run is ready to train
    delete_earlier_run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-of-mine", "thesis.txt"]
    assert "deleting" in caplog.text


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left")])
def test_a_full_disk_at_a_checkpoint_leaves_the_earlier_one_whole(error, tmp_path, monkeypatch, tiny_trainer):
    trainer = tiny_trainer(tmp_path, max_steps=4, save_steps=2, save_total_limit=1)
    save = torch.save

    def full(state, path, *args, **kwargs):
        if "checkpoint-4" in str(path) and "optimizer" in str(path):
            Path(path).write_bytes(b"half")
            raise error
        save(state, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"could not save .*checkpoint-4: .*No space left.*resume_from_checkpoint"):
        trainer.train()
    assert not (tmp_path / "checkpoint-4").exists()
    assert checkpoint_fault(tmp_path / "checkpoint-2") is None
    (tmp_path / "checkpoint-4").mkdir()  # with something in it that is not the trainer's
    (tmp_path / "checkpoint-4" / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match="could not save"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert (tmp_path / "checkpoint-4" / "notes.txt").is_file()
    assert "not saved to its end" in checkpoint_fault(tmp_path / "checkpoint-4")


def test_an_older_checkpoint_is_deleted_only_when_the_newer_is_whole(tmp_path, monkeypatch, tiny_trainer):
    from hf_genai.training import trainer as module

    rotate, seen = module.rotate_checkpoints, []

    def watch(folder, *args, **kwargs):
        seen.append([checkpoint_fault(path) for path in Path(folder).glob("checkpoint-*")])
        rotate(folder, *args, **kwargs)

    monkeypatch.setattr(module, "rotate_checkpoints", watch)
    tiny_trainer(tmp_path, max_steps=2, save_steps=1, save_total_limit=1).train()
    assert seen == [[None], [None, None]]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_checkpoint_folder_copied_elsewhere_can_be_named(tmp_path):
    folder = make_checkpoint(tmp_path / "run" / "checkpoint-3")
    shutil.copytree(folder, tmp_path / "kept")
    assert checkpoint_to_resume(tmp_path / "new", str(tmp_path / "kept")) == str(tmp_path / "kept")
