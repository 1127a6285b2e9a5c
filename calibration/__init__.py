"""From texts to ranges of activations: corpus, collection, observers, smoothing, the table."""
