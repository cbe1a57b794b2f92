"""Training step of the recurrent translator against its peers: forward, backward, optimizer; float32.

    pip install --no-deps -r benchmarks/requirements.txt
    OMP_NUM_THREADS=1 python benchmarks/train_rnn.py --json results.json
    python benchmarks/train_rnn.py --threads 2 --only h256

Sizes, lengths (22-30) and arithmetic are the same on both sides. The script copies JoeyNMT's weights and checks that
losses and gradients are equal before it measures. Each side takes its own optimizer: hf_genai the fused AdamW of
transformers' Trainer, the peers torch's Adam, which they build themselves. Memory is by how much three steps raise the
peak of a fresh process.
"""

import sys

import torch
from measure import (
    installed,
    matrix_products,
    medians,
    parse_options,
    peak_memory,
    print_peak_memory,
    report,
    row,
    selected,
)
from peers import (
    PAD,
    OpenNMT,
    TutorialLoop,
    columns,
    copy_joeynmt_weights,
    joeynmt_batch,
    joeynmt_loss,
    joeynmt_model,
    joeynmt_names,
    make_batch,
    replace_unused_imports,
)

from hf_genai.models.configuration_rnn import GenaiRNNConfig
from hf_genai.models.modeling_rnn import GenaiRNNForConditionalGeneration

SIZES = {"h256 b32": (256, 32, 8000), "h512 b64": (512, 64, 8000)}  # hidden size, batch, vocabulary
SMOKE_SIZES = {"h16 b2": (16, 2, 50)}
# (our model, peer, target): the least ratio that the library is to reach
PAIRS = (
    ("fed", "JoeyNMT", 1.5),
    ("fed", "tutorial loop", 2.2),
    ("unfed", "JoeyNMT", 1.6),
    ("unfed general", "OpenNMT-py unfed", 1.2),
    ("fed general", "OpenNMT-py fed", 0.97),
)


def our_model(
    hidden_size: int, vocab_size: int, fed: bool, encoder_size: int | None = None, attention: str = "additive"
):
    config = GenaiRNNConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        encoder_hidden_size=encoder_size or 2 * hidden_size,
        input_feeding=fed,
        attention_type=attention,
        dropout=0.0,
        share_encoder_decoder_embeddings=False,
        tie_word_embeddings=False,
    )
    return GenaiRNNForConditionalGeneration(config).train()


def our_loss(model, data):
    labels = data["trg"][:, 1:].masked_fill(data["trg"][:, 1:] == PAD, -100)
    inputs = {"input_ids": data["src"], "attention_mask": (data["src"] != PAD).long(), "labels": labels}
    return lambda: model(**inputs).loss


def training_step(loss, optimizer):
    def step():
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def check_equal(ours, our_loss, theirs, their_loss, hidden_size: int) -> None:
    """Copy JoeyNMT's weights and compare loss and every gradient."""
    copy_joeynmt_weights(ours, theirs, hidden_size)
    first, second = our_loss(), their_loss()
    first.backward()
    second.backward()
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    our_parameters, their_parameters = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name, peer, part in joeynmt_names(ours):
        expected = columns(their_parameters[peer].grad, part, hidden_size)
        torch.testing.assert_close(our_parameters[name].grad, expected, atol=3e-6, rtol=1e-3)
    ours.zero_grad()
    theirs.zero_grad()


def make_contender(which: str, hidden_size: int, batch_size: int, vocab_size: int):
    """Return a model, its loss on the batch, and its training step."""
    data = make_batch(batch_size, vocab_size)
    if which in ("fed", "unfed", "fed general", "unfed general"):
        general = {"encoder_size": hidden_size, "attention": "general"} if "general" in which else {}
        model = our_model(hidden_size, vocab_size, fed=which.startswith("fed"), **general)
        loss = our_loss(model, data)
        return model, loss, training_step(loss, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True))
    if which == "JoeyNMT":
        model, batch = joeynmt_model(hidden_size, vocab_size), joeynmt_batch(data)
        loss = lambda: joeynmt_loss(model, batch)  # noqa: E731
    else:
        if which == "tutorial loop":
            model = TutorialLoop(hidden_size, vocab_size)
        else:
            model = OpenNMT(hidden_size, vocab_size, fed=which == "OpenNMT-py fed")
        loss = lambda: model(data)  # noqa: E731
    return model, loss, training_step(loss, torch.optim.Adam(model.parameters(), lr=1e-4))


def main() -> None:
    options = parse_options(__doc__)
    left_out = () if installed("JoeyNMT", "joeynmt.model") else ("JoeyNMT",)
    replace_unused_imports()
    if not installed("OpenNMT-py", "onmt.decoders.decoder"):
        left_out += ("OpenNMT-py unfed", "OpenNMT-py fed")
    rows = []
    for size, numbers in (SMOKE_SIZES if options.smoke else SIZES).items():
        pairs = [
            (f"train {ours} {size}", ours, peer, target)
            for ours, peer, target in PAIRS
            if selected(f"train {ours} {size}", options) and peer not in left_out
        ]
        names = dict.fromkeys(name for _, ours, peer, _ in pairs for name in (ours, peer))
        contenders = {name: make_contender(name, *numbers) for name in names}
        if "fed" in contenders and "JoeyNMT" in contenders:
            check_equal(*contenders["fed"][:2], *contenders["JoeyNMT"][:2], numbers[0])
        for name in dict.fromkeys(ours for _, ours, _, _ in pairs) if options.profile else ():
            print(f"train {name} {size}: {matrix_products(contenders[name][2], options)}")
        seconds = medians({name: step for name, (_, _, step) in contenders.items()}, options)
        rows += [
            row(name, peer, 1e3 * seconds[ours], 1e3 * seconds[peer], target) for name, ours, peer, target in pairs
        ]
        for ours in ("fed",) if options.smoke else ("fed", "unfed"):
            if selected(f"memory {ours} {size}", options) and "JoeyNMT" not in left_out:
                memory = [peak_memory(__file__, which, *map(str, numbers)) for which in (ours, "JoeyNMT")]
                rows.append(row(f"memory {ours} {size}", "JoeyNMT", *memory, target=1.0, unit="MB"))
    report(rows, options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        torch.set_num_threads(1)
        print_peak_memory(make_contender(sys.argv[2], *map(int, sys.argv[3:]))[2])
    else:
        main()
