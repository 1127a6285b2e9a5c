"""Which tokens a bundle keeps, where it does not keep all."""
