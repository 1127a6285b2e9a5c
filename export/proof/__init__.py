"""``adaptrt prove``: evidence that a bundle is as good as its checkpoint."""
