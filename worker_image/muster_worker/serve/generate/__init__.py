"""Text from a language model: sequences that come and go are computed together, token by token."""
