"""Curricula: the curriculum stage and its report."""
