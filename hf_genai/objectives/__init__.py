"""Training objectives: each module prepares the rows and batches of one objective.

causal_lm             predict the next token; packed rows
masked_lm             predict masked tokens (80/10/10), or whole words
span_corruption       predict removed spans with the decoder
prefix_lm             predict the rest of a text from a prefix with bidirectional attention
fill_in_the_middle    predict the text between a prefix and a suffix
seq2seq               predict a target text from a source text
dialogue              predict the assistant's turns
classification        predict a label, several labels or a number for a text
tagging               predict a label for each word
question_answering    predict the span of the answer in a text
"""
