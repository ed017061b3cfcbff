"""Strategies: methods of continual learning.

One method a file, found by its file name; the contract is in `insitu.strategies.base`.
"""
