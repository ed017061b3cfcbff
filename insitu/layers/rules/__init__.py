"""Hebbian rules: the post-synaptic term of every kernel at every place, one rule a file."""
