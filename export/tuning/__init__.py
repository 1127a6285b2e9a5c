"""Which executor is fastest for a bundle on this machine."""
