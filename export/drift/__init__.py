"""Where inside the network an engine's graph departs from the FP32 reference, and why."""
