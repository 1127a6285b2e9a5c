"""Rewrites of the portable graph for each executor: one pass a file, one pipeline per graph."""
