"""Post-hoc calibration of task models."""
