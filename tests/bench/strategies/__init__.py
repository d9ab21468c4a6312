"""What each strategy is worth, beside those who do without Muster, and what it sends."""
