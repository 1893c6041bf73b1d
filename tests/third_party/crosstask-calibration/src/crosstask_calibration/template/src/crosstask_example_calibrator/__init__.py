"""A calibrator."""
