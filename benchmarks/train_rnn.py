"""Training step of the recurrent translator against its peers: forward, backward, optimizer; one thread, float32.

    pip install --no-deps -r benchmarks/requirements.txt
    OMP_NUM_THREADS=1 python benchmarks/train_rnn.py --json results.json

Sizes, lengths (22-30) and arithmetic are the same on both sides. Against JoeyNMT the weights are copied, and losses
and gradients checked to be equal before the clock runs. Each side takes its own optimizer: hf_genai the fused AdamW
that transformers' Trainer uses, the peers torch's Adam as they build it. Memory is how far a step raises the peak of
a fresh process.
"""

import re
import subprocess
import sys
from pathlib import Path

import torch
from measure import arguments, medians, report, row
from peers import PAD, OpenNMT, TutorialLoop, batch, columns, joeynmt_batch, joeynmt_loss, joeynmt_model, joeynmt_names

from hf_genai.models.configuration_rnn import GenaiRNNConfig
from hf_genai.models.modeling_rnn import GenaiRNNForConditionalGeneration

VOCABULARY = 8000
SIZES = {"h256 b32": (256, 32), "h512 b64": (512, 64)}
FED_GOALS, UNFED_GOALS = {"h256 b32": 1.5, "h512 b64": 1.35}, {"h256 b32": 1.8, "h512 b64": 1.6}


def our_model(hidden_size: int, fed: bool, encoder_size: int | None = None, attention: str = "additive"):
    config = GenaiRNNConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        encoder_hidden_size=encoder_size or 2 * hidden_size,
        input_feeding=fed,
        attention_type=attention,
        dropout=0.0,
        share_encoder_decoder_embeddings=False,
        tie_word_embeddings=False,
    )
    return GenaiRNNForConditionalGeneration(config).train()


def our_step(model, data):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    labels = data["trg"][:, 1:].masked_fill(data["trg"][:, 1:] == PAD, -100)
    inputs = {"input_ids": data["src"], "attention_mask": (data["src"] != PAD).long(), "labels": labels}

    def loss():
        return model(**inputs).loss

    return loss, training_step(loss, optimizer)


def training_step(loss, optimizer):
    def step():
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def joeynmt_step(model, data):
    joey_batch = joeynmt_batch(data)

    def loss():
        return joeynmt_loss(model, joey_batch)

    return loss, training_step(loss, torch.optim.Adam(model.parameters(), lr=1e-4))


def check_equal(ours, our_loss, theirs, their_loss, hidden_size: int) -> None:
    """Copy JoeyNMT's weights over and compare loss and every gradient."""
    our_parameters, their_parameters = dict(ours.named_parameters()), dict(theirs.named_parameters())
    with torch.no_grad():
        for bias in (p for name, p in our_parameters.items() if "key_proj.bias" in name):
            bias.zero_()  # JoeyNMT has none, and softmax does not see it
        for name, peer, part in joeynmt_names():
            our_parameters[name].copy_(columns(their_parameters[peer], part, hidden_size))
    first, second = our_loss(), their_loss()
    first.backward()
    second.backward()
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    for name, peer, part in joeynmt_names():
        expected = columns(their_parameters[peer].grad, part, hidden_size)
        torch.testing.assert_close(our_parameters[name].grad, expected, atol=3e-6, rtol=1e-3)
    ours.zero_grad()
    theirs.zero_grad()


def contender(which: str, size: str):
    hidden_size, batch_size = SIZES[size]
    data = batch(batch_size, VOCABULARY)
    if which == "JoeyNMT":
        model = joeynmt_model(hidden_size, VOCABULARY)
        return model, *joeynmt_step(model, data)
    if which in ("fed", "unfed"):
        model = our_model(hidden_size, which == "fed")
        return model, *our_step(model, data)
    if which == "unfed general":
        model = our_model(hidden_size, False, hidden_size, "general")
        return model, *our_step(model, data)
    model = {"tutorial loop": TutorialLoop, "OpenNMT-py unfed": OpenNMT}[which](hidden_size, VOCABULARY)
    return (
        model,
        lambda: model(data),
        training_step(lambda: model(data), torch.optim.Adam(model.parameters(), lr=1e-4)),
    )


def memory_of(which: str, size: str) -> float:
    """MB by which three training steps raise the peak memory of a fresh process (Linux)."""
    command = [sys.executable, __file__, "--memory-of", which, size]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(which: str, size: str) -> None:
    torch.set_num_threads(1)
    _, _, step = contender(which, size)
    status, kilobytes = Path("/proc/self/status"), r":\s+(\d+) kB"
    before = re.search("VmRSS" + kilobytes, status.read_text())
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of importing and building
    for _ in range(3):
        step()
    peak = re.search("VmHWM" + kilobytes, status.read_text())
    print((int(peak[1]) - int(before[1])) / 1024)


def main() -> None:
    options = arguments(__doc__)
    rows = []
    for size, (hidden_size, _) in SIZES.items():
        if options.only not in size:
            continue
        peers = {"JoeyNMT": FED_GOALS[size], "tutorial loop": 2.2}
        made = {
            which: contender(which, size) for which in ("fed", "unfed", *peers, "unfed general", "OpenNMT-py unfed")
        }
        check_equal(made["fed"][0], made["fed"][1], made["JoeyNMT"][0], made["JoeyNMT"][1], hidden_size)
        seconds = medians({which: step for which, (_, _, step) in made.items()}, options.rounds)
        ms = {which: 1000 * value for which, value in seconds.items()}
        for peer, goal in peers.items():
            rows.append(row(f"train fed {size}", peer, ms["fed"], ms[peer], goal))
        rows.append(row(f"train unfed {size}", "JoeyNMT (fed)", ms["unfed"], ms["JoeyNMT"], UNFED_GOALS[size]))
        rows.append(
            row(f"train unfed general {size}", "OpenNMT-py unfed", ms["unfed general"], ms["OpenNMT-py unfed"], 1.15)
        )
        for kind in ("fed", "unfed"):
            memory = memory_of(kind, size), memory_of("JoeyNMT", size)
            rows.append(row(f"memory {kind} {size}", "JoeyNMT", *memory, 1.0, unit="MB"))
    report(rows, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        print_memory(*sys.argv[2:])
    else:
        main()
