"""Whether an engine and a store of vectors belong together."""
