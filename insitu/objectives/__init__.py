"""Objectives: what the model is asked to do with a batch, and how well it did.

One objective a file, found by its file name; the contract is in `insitu.objectives.base`.
"""
