"""Decoding of the recurrent translator, generate() and fast_generate, against JoeyNMT's own search: greedy and beams.

    pip install --no-deps -r benchmarks/requirements.txt
    OMP_NUM_THREADS=1 python benchmarks/decode_rnn.py --json results.json
    OMP_NUM_THREADS=1 python benchmarks/decode_rnn.py --only "h64, greedy"

All contenders hold the same weights (additive attention, input feeding, vocabulary 8,000) and write 40 tokens for each
sentence of 22-30 tokens, encoder included. The script checks first that greedy outputs are the same token for token,
and prints how many outputs of beam search are: sums of the log-probabilities of random weights often tie in float32.
"""

from functools import partial

import torch
from measure import installed, medians, parse_options, report, row, selected
from peers import PAD, UNK, copy_joeynmt_weights, joeynmt_batch, joeynmt_model, make_batch
from train_rnn import our_model

import hf_genai

# hidden size, sentences, beams
CASES = ((256, 1, 1), (256, 32, 1), (256, 1, 5), (256, 32, 5), (64, 2, 1), (64, 2, 5))
SMOKE_CASES = ((16, 2, 1), (16, 2, 3))


def make_models(hidden_size: int, vocab_size: int, with_peer: bool):
    """Return our model and, with a peer, JoeyNMT's with the same weights; neither ever writes a special token.

    The logits of special tokens are 0, which is never the largest of a large vocabulary.
    """
    ours = our_model(hidden_size, vocab_size, fed=True).eval()
    ours.generation_config.eos_token_id = None
    if not with_peer:
        return ours, None
    theirs = joeynmt_model(hidden_size, vocab_size).eval()
    with torch.no_grad():
        theirs.decoder.output_layer.weight[: UNK + 1] = 0
    copy_joeynmt_weights(ours, theirs, hidden_size)
    return ours, theirs


def joeynmt_search(model, data: dict, beams: int, length: int):
    from joeynmt.search import search

    batch = joeynmt_batch(data, with_target=False)
    batch.has_trg = False
    options = {"max_output_length": length, "return_prob": "none", "beam_size": beams, "beam_alpha": 1.0}
    return torch.as_tensor(search(model, batch, **options)[0])


def check_same(outputs: torch.Tensor, expected: torch.Tensor, beams: int) -> None:
    """Raise unless the outputs have one shape and, without beams, are the same; print how many of beams are."""
    assert outputs.shape == expected.shape, (outputs.shape, expected.shape)
    share = (outputs == expected).all(1).float().mean()
    assert beams > 1 or share == 1, f"only {share:.0%} of the outputs are the same"
    if share < 1:
        print(f"{share:.0%} of the outputs of {beams} beams are the same")


def main() -> None:
    options = parse_options(__doc__)
    with_peer = installed("JoeyNMT", "joeynmt.search")
    vocab_size, length = (50, 4) if options.smoke else (8000, 40)
    rows = []
    for hidden_size, sentences, beams in SMOKE_CASES if options.smoke else CASES:
        name = f"decode h{hidden_size}, {'greedy' if beams == 1 else f'beam {beams}'}, batch {sentences}"
        if not selected(name, options):
            continue
        ours, theirs = make_models(hidden_size, vocab_size, with_peer)
        data = make_batch(sentences, vocab_size)
        generate = partial(
            ours.generate,
            data["src"],
            attention_mask=(data["src"] != PAD).long(),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=length,
        )
        contenders = {
            "generate()": generate,
            "fast_generate": partial(generate, custom_generate=hf_genai.fast_generate),
        }
        if with_peer:
            contenders["JoeyNMT"] = partial(joeynmt_search, theirs, data, beams, length)
        outputs = {which: run() for which, run in contenders.items()}
        check_same(outputs["fast_generate"], outputs["generate()"], beams)
        if with_peer and not options.smoke:  # the best of a tiny vocabulary's logits may be a special token's
            check_same(outputs["generate()"][:, 1:], outputs["JoeyNMT"], beams)
        ms = {which: 1e3 * seconds for which, seconds in medians(contenders, options).items()}
        rows.append(row(f"{name}, fast_generate", "generate()", ms["fast_generate"], ms["generate()"], target=None))
        if with_peer:
            for which in ("generate()", "fast_generate"):
                rows.append(row(f"{name}, {which}", "JoeyNMT", ms[which], ms["JoeyNMT"], target=1.0))
    report(rows, options)


if __name__ == "__main__":
    main()
