"""From a checkpoint to a verified engine bundle."""
