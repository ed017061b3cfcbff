"""Hooks: the operator's own code, run beside the training and never in its way."""
