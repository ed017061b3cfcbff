"""`python -m insitu_service.cli`: the same as `insitu`."""

from __future__ import annotations

from insitu_service.cli import main

main()
