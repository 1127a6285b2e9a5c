"""Scores of bundles by MTEB, beside the checkpoint's own and the published ones."""
