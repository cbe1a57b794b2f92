"""Reversing sequences: what attention is for, shown by short training."""

import json

import pytest
import torch

from recipes.study_reversal import LONGEST_IN_TRAINING, exact_match, main, reversal_batch, train_reversal


@pytest.fixture(autouse=True)
def one_thread():
    """Products this small are slower on more threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_batch_holds_sequences_and_the_same_backwards():
    ids, labels = reversal_batch(2, 5, 10, torch.Generator().manual_seed(0))
    assert torch.equal(ids[:, :5].flip(1), labels[:, :5])
    assert ids[:, 5].tolist() == labels[:, 5].tolist() == [2, 2]
    assert ids[:, :5].min() >= 3
    assert not torch.equal(ids[0], ids[1])


def test_attention_reverses_twenty_symbols_and_one_fixed_vector_does_not():
    """About 25 seconds on one core."""
    attention, fixed_vector = train_reversal("additive"), train_reversal("none")
    assert exact_match(attention, LONGEST_IN_TRAINING) >= 0.99
    assert exact_match(attention, 1) >= 0.99
    assert exact_match(fixed_vector, LONGEST_IN_TRAINING) < 0.2
    assert exact_match(fixed_vector, 3) > 0.5, "it fails for want of room, not of training"


def test_the_study_writes_a_picture_and_numbers_and_overwrites_nothing(tmp_path, capsys):
    options = ["--steps", "2", "--longest", "3", "--samples", "4", "--hidden_size", "8"]
    folder = tmp_path / "new"
    results = main(["--output_dir", str(folder), *options, "--attention_types", "none", "dot"])
    assert list(results) == ["none", "dot"]
    assert all(len(result["exact_match"]) == 3 for result in results.values())
    assert (folder / "reversal.png").stat().st_size > 1000
    assert json.loads((folder / "results.json").read_text())["results"] == results
    assert "dot" in capsys.readouterr().out
    with pytest.raises(ValueError, match="output_dir"):
        main(["--output_dir", str(folder), *options])
