"""Joint training of several tasks: sharing, sampling, the trainer."""
