"""Decode, score and look inside: generation, metrics, attention maps and their pictures.

- `generation`: texts in, texts out, in batches.
- `metrics`: BLEU, chrF, exact match, accuracy, F1 and perplexity behind `evaluate`'s interface, without the network.
- `task_scores`: what classes, answers and summaries are scored by in fine-tuning.
- `attention_maps`: what the decoder looked at, one map per generated sequence.
- `attention_plots`: a map as a matplotlib figure or as a self-contained HTML page.

The modules are imported by their users, since each needs other optional packages.
"""
