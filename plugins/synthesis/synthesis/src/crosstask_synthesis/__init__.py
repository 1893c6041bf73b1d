"""Models for unseen tasks: who owns which output, what to expect, the synthesis stage."""
