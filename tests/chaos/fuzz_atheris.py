"""Fuzzing by coverage, with atheris (`pip install insitu[fuzz]`; CPython up to 3.11).

    python -m chaos.fuzz_atheris config 60

It begins with the corpus and with what earlier runs found worth keeping, which lies in
`NAME.grown/` of the working directory. An input that breaks something is written there as
`crash-...`; put it into the corpus when it is mended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from chaos.targets import CORPUS, NAMES

#: what each target is about; only these are watched for coverage
_WATCHED = {
    "wire": ["insitu.wire", "insitu.schema", "msgpack"],
    "checkpoint": ["insitu.checkpoint"],
    "config": ["insitu.config"],
    "http": ["insitu_service.http.application", "h11", "uvicorn.protocols", "starlette"],
    "log": ["insitu.stream.log"],
}
_MOST_BYTES = 4096


def main(name: str, seconds: int) -> None:
    """Fuzz one target for so long; ends the process."""
    import atheris

    if name not in NAMES:
        raise SystemExit(f"{name!r} is no target; allowed: {', '.join(NAMES)}")
    with atheris.instrument_imports(include=_WATCHED[name]):
        from chaos.targets import load

        run: Callable[[bytes], None] = load(name)
    grown = Path(f"{name}.grown")
    grown.mkdir(exist_ok=True)
    words = [
        sys.argv[0], f"-max_total_time={seconds}", f"-max_len={_MOST_BYTES}", "-timeout=60",
        "-rss_limit_mb=4096", "-print_final_stats=1", str(grown), str(CORPUS / name),
    ]  # fmt: skip
    atheris.Setup(words, run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
