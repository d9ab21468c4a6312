"""What a key-value cache and continuous batching are worth."""
