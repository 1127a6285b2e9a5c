"""Texts to token ids and back to spans: tokenizer, chunks, lines, batches."""
