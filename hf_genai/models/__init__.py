"""The models. Files of this folder travel with each model to the Hub, so they import only each other (`from .name`),
torch, numpy, transformers, huggingface_hub and the standard library.

Shared, from small to large:
    fields.py                 checked fields of configurations
    base.py                   the base class of all models (saving with code), the keywords of `forward`, input checks
    ops.py                    the operations that a kernel may replace, as plain functions
    attention.py              scores (dot, scaled dot, additive), and `attend`: what every attention here is made of;
                              multi-head attention
    positions.py              sinusoidal, rotary and relative positions
    varlen_attention.py       texts without padding between them, and attention within each
    attention_kernel.py       attention in training on a CPU, with a hand-written backward
    blocks.py                 norm, feed-forward, and the Transformer layer
    transformer_stack.py      embeddings, masks, layers: BERT, GPT and both halves of T5 are such stacks
    configuration_transformer.py    the fields that their configurations share
    heads.py                  logits and losses on top of a model, and the checks of labels
    matmul.py                 matrix products, by oneDNN or numpy where that is faster
    packed_linear.py          linear maps laid out for a few rows
    token_step.py             one more token a row: the layers of a stack, as decoding runs them
    linear_cross_entropy.py   head and loss over a large vocabulary, in chunks
    transformer_kernels.py    dropout, norm, activations, rotation with a hand-written backward
    private_names.py          private names of torch that kernels use, on their way to kernels/
    fast_path.py              when a kernel may stand in for its plain twin
    recurrence.py             GRU and LSTM over all steps, with and without attention in the loop: the plain loops
    recurrence_kernels.py     the same with hand-written backward passes
    recurrent_layers.py       layers and the decoder's attention, made of the above
    recurrent_stacks.py       the encoder and the decoder
    recurrent_cache.py        a recurrent state as a layer of transformers' cache

Families, a configuration and a modeling file each:
    configuration_rnn.py, modeling_rnn.py      genai_rnn: encoder-decoder, language model, classifiers
    configuration_bert.py, modeling_bert.py    genai_bert: masked language model, classifiers, question answering, and
                                               BERT as a decoder; its stack is in bert_stack.py
    configuration_gpt.py, modeling_gpt.py      genai_gpt: language model, classifiers, question answering
    configuration_t5.py, modeling_t5.py        genai_t5: text to text, encoder, classifiers, question answering;
                                               its encoder and decoder are in t5_stacks.py
"""
