"""Texts and, later, ranges for quantisation."""
