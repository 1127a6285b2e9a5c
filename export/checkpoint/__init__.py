"""A checkpoint as canonical tensors: where it is, its formats, its adapters, its identity."""
