"""The landing page of a running service in a real browser."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from daemon import Daemon
from served import config, producer, push


def browse(chromium: str, profile: Path, *arguments: str) -> str:
    """Standard output of a headless browser that has loaded a page."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command = [chromium, *flags, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_a_browser_shows_the_landing_page(
    tmp_path: Path, need_program: Callable[[str], str]
) -> None:
    chromium = need_program("chromium")
    with Daemon(tmp_path, config(tmp_path, service={"name": "plasma"})) as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=60) as source:
            push(source, 0, 804, task="warm <b>up</b>")
            daemon.wait_metric("insitu_trained_samples_total", 800, source="fresh")
            page = browse(chromium, tmp_path / "profile", "--dump-dom", daemon.url)
            picture = tmp_path / "page.png"
            browse(chromium, tmp_path / "profile", f"--screenshot={picture}", daemon.url)
        text = html.unescape(re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]))
        assert "Ready." in text
        assert "800 trained" in text
        assert "warm <b>up</b>" in text  # a name is text, never markup
        assert "<b>up</b>" not in page
        assert "rank-0" in text
        for link in re.findall(r'href="([^"]+)"', page):
            assert daemon.get(link)[0] == 200
        assert len(set(picture.read_bytes())) > 100  # something was drawn
        assert daemon.stop() == 0
