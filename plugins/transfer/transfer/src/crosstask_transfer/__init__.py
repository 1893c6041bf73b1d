"""Transfer between tasks: which layers carried it."""
