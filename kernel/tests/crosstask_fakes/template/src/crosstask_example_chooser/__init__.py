"""Chooses every other task."""
