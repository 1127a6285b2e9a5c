"""A corpus to vectors: files of texts in, Parquet parts out, each of them exactly once."""
