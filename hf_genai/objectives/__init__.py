"""What a batch is, for each way of training: a file and a collator each."""
