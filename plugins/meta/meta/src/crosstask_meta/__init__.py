"""Meta-learning and few-shot learning: episodes, their samplers, the few-shot stage."""
