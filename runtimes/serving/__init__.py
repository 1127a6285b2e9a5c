"""Served models: what a request means, and the client."""
