"""`python -m simulation`, from `tests/`."""

import sys

from simulation.run import main

sys.exit(main(sys.argv[1:]))
