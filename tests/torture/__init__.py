"""adaptrt under fire: ``python -m tests.torture`` (``make torture``)."""
