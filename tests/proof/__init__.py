"""Proofs, drift and torture on small checkpoints."""
