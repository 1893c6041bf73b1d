"""The stage `routing`."""
