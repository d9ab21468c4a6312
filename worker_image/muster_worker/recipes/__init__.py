"""Recipes that come with Muster."""
