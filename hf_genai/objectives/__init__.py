"""What a batch is, for each way of training: a file each.

causal_lm             the next token; packed rows
masked_lm             hidden tokens (80/10/10), or whole words
span_corruption       runs of tokens, written by a decoder
prefix_lm             the rest of a text whose beginning is read in both directions
fill_in_the_middle    what stands between a beginning and an end
seq2seq               a target text for a source text
dialogue              the assistant's turns
classification        a label, several labels or a number for a text
tagging               a label for each word
question_answering    where the answer stands
"""
