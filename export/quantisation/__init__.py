"""Quantised products: calibration, sensitivity, fallback and what a bundle records."""
