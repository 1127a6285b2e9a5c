"""From texts to INT8 ranges: corpus, collection, observers, smoothing, the table."""
