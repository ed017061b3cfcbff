"""The page at `/`: where everything is, and how the service is doing. Plain HTML, no scripts."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from insitu_service.status import figures

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff; }
table { border-collapse: collapse; } td, th { padding: .15rem 1.5rem .15rem 0; text-align: left; }
td { font-variant-numeric: tabular-nums; } .bad { color: #a40e26; }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117; } a { color: #79c0ff; } .bad { color: #ff7b72; } }
"""
_LINKS = {
    "/metrics": "metrics for Prometheus",
    "/status": "state as JSON",
    "/livez": "is it alive?",
    "/readyz": "is it ready?",
}


def landing_page(status: Mapping[str, Any], problems: Sequence[str]) -> str:
    """The page for a state (see `insitu_service.status`) and the reasons for not being ready."""
    name = html.escape(str(status.get("service", {}).get("name", "insitu")))
    links = "".join(f'<li><a href="{path}">{path}</a> {text}</li>' for path, text in _LINKS.items())
    rows = "".join(
        f"<tr><th>{html.escape(label)}</th><td>{html.escape(value)}</td></tr>"
        for label, value in figures(status)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name} · insitu</title>'
        '<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="5">'
        f"<style>{_STYLE}</style></head><body><h1>{name}</h1>{_health(problems)}"
        f"<table>{rows}</table><ul>{links}</ul></body></html>"
    )


def _health(problems: Sequence[str]) -> str:
    if not problems:
        return "<p>Ready.</p>"
    items = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
    return f'<p class="bad">Not ready:</p><ul class="bad">{items}</ul>'
