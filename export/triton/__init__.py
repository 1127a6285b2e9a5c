"""A Triton model repository from bundles, and a server to run it on this machine."""
