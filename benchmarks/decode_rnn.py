"""Decoding through plain generate() against JoeyNMT's own search: greedy and beam 5, batch 1 and 32; one thread.

    pip install --no-deps -r benchmarks/requirements.txt
    OMP_NUM_THREADS=1 python benchmarks/decode_rnn.py --json results.json

Both sides hold the same weights (hidden size 256, additive attention, input feeding, vocabulary 8,000) and write 40
tokens for each sentence of 22-30 tokens, encoder included. Greedy outputs are checked to be the same token for token.
"""

import torch
from measure import arguments, medians, report, row
from peers import PAD, UNK, batch, columns, joeynmt_batch, joeynmt_model, joeynmt_names
from train_rnn import our_model

VOCABULARY, HIDDEN_SIZE, LENGTH = 8000, 256, 40


def models():
    """Both models with the same weights. A logit of 0 is never the best of 8,000: no special token is ever written."""
    theirs, ours = joeynmt_model(HIDDEN_SIZE, VOCABULARY).eval(), our_model(HIDDEN_SIZE, fed=True).eval()
    our_parameters, their_parameters = dict(ours.named_parameters()), dict(theirs.named_parameters())
    with torch.no_grad():
        their_parameters["decoder.output_layer.weight"][: UNK + 1] = 0
        for parameter in our_parameters.values():
            parameter.zero_()
        for name, peer, part in joeynmt_names():
            our_parameters[name].copy_(columns(their_parameters[peer], part, HIDDEN_SIZE))
    return ours, theirs


def decoders(ours, theirs, batch_size: int, beams: int):
    from joeynmt.search import search

    data = batch(batch_size, VOCABULARY)
    mask = (data["src"] != PAD).long()
    joey = joeynmt_batch(data, with_target=False)
    joey.has_trg = False

    def generate():
        return ours.generate(
            data["src"],
            attention_mask=mask,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=LENGTH,
        )

    def joeynmt_search():
        options = {"max_output_length": LENGTH, "return_prob": "none"}
        return search(theirs, joey, beam_size=beams, beam_alpha=1.0, **options)[0]

    return generate, joeynmt_search


def main() -> None:
    options = arguments(__doc__)
    ours, theirs = models()
    rows = []
    for beams in (1, 5):
        for batch_size in (1, 32):
            name = f"{'greedy' if beams == 1 else f'beam {beams}'}, batch {batch_size}"
            if options.only not in name:
                continue
            generate, joeynmt_search = decoders(ours, theirs, batch_size, beams)
            found, wanted = generate()[:, 1:], torch.as_tensor(joeynmt_search())
            assert found.shape == wanted.shape, (found.shape, wanted.shape)
            if beams == 1:
                torch.testing.assert_close(found, wanted, msg="greedy outputs differ")
            seconds = medians({"ours": generate, "JoeyNMT": joeynmt_search}, options.rounds)
            rows.append(row(f"decode {name}", "JoeyNMT", 1000 * seconds["ours"], 1000 * seconds["JoeyNMT"], 1.0))
    report(rows, options.json)


if __name__ == "__main__":
    main()
