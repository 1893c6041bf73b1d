"""Continual learning: tasks one after another, forgetting measured."""
