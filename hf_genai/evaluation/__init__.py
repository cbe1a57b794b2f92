"""Decode, score and look inside: generation, metrics, attention maps and their pictures.

generation.py         texts in, texts out, in batches
prefixes.py           what is put before each source, as T5 needs it
metrics.py            BLEU, chrF, exact match, accuracy, F1 and perplexity behind `evaluate`'s interface, offline
bleu_tokenizers.py    which of sacreBLEU's tokenizers a target language takes
scripts.py            what counts as a word in each script
task_scores.py        what classes, entities, answers and summaries are scored by in fine-tuning
baselines.py          what a model has to beat there and in pretraining
attention_maps.py     what the decoder looked at, one map per generated sequence
words.py              tokens back to words, for these maps
attention_plots.py    a map as a matplotlib figure or as a self-contained HTML page

The modules are imported by their users, since each needs other optional packages.
"""
