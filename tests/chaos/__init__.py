"""The breaking harness: real processes, real faults, and books that must balance after each.

`make chaos` runs the short profile of everything, `make chaos-long` the long one; both print the
books and the figures. CONTRIBUTING.md says what each part is and how to run it alone.
"""
