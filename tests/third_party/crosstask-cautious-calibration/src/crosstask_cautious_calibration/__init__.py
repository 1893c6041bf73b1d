"""Wraps and composes calibrators."""
