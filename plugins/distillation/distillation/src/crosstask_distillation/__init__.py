"""Meta-knowledge distilled from several tasks: the distillation stage."""
