"""A model's layers divided among processes: what training and serving do alike."""
