"""The models. Files of this folder travel with each model to the Hub, so they import only each other (`from .name`),
torch, numpy, transformers, huggingface_hub and the standard library.

Shared, from small to large:
    fields.py                 checked fields of configurations
    seq2seq.py                shifting labels, reading a layer's weight, checking ids and masks
    attention.py              scores (dot, scaled dot, additive), and `attend`: what every attention here is made of
    matmul.py                 matrix products, by oneDNN where that is faster
    linear_cross_entropy.py   head and loss over a large vocabulary, in chunks
    fast_path.py              when a kernel may stand in for its plain twin
    recurrence.py             GRU and LSTM over all steps, with and without attention in the loop: the plain loops
    recurrence_kernels.py     the same with hand-written backward passes
    recurrent_layers.py       layers and the decoder's attention, made of the above
    recurrent_stacks.py       the encoder and the decoder
    recurrent_cache.py        a recurrent state as a layer of transformers' cache

Families, a configuration and a modeling file each:
    configuration_rnn.py, modeling_rnn.py    genai_rnn: encoder-decoder, language model, classifiers
"""
