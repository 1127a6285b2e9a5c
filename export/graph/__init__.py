"""The encoder as a typed graph without weights, and the weights that belong to it."""
