"""Adapters: layers that ask their adapters, several adapters on one model."""
