"""Measurements that anyone can run on their own machine: `insitu bench NAME`.

Every figure is a ratio against a floor that is measured in the same run, the two in turn,
because absolute times on a shared machine mean little. `tests/benchmarks/` runs the same code
and holds the ratios against their targets.
"""
