"""Sources that push: data sets, simulations and synthetic rows, each a program of its own."""
