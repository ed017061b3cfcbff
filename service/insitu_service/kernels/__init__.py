"""Hebbian kernels as checkpoints show them: tables at one step, and how they went over many."""
