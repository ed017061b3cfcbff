"""The page at `/`: where everything is, and how the service is doing. Plain HTML, no scripts."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from insitu_service.status import figures

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --quiet: #59636e; --line: #d8dee4;
        --good: #116329; --bad: #a40e26; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --quiet: #9198a1; --line: #30363d;
        --good: #56d364; --bad: #ff7b72; --link: #79c0ff; } body { background: #0d1117; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2.5rem auto;
       padding: 0 1.25rem; color: var(--text); }
h1 { margin: 0; font-size: 1.75rem; } h1 + p { margin: .25rem 0 1.5rem; }
.good { color: var(--good); } .bad { color: var(--bad); } ul.bad { margin-top: 0; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .4rem 0; text-align: left; vertical-align: top; font-weight: normal;
         border-bottom: 1px solid var(--line); }
th { color: var(--quiet); width: 7.5rem; } td { font-variant-numeric: tabular-nums; }
nav { margin-top: 1.5rem; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; }
nav span { color: var(--quiet); } a { color: var(--link); }
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
    links = "".join(
        f'<span><a href="{path}">{path}</a> {text}</span>' for path, text in _LINKS.items()
    )
    rows = "".join(
        f"<tr><th>{html.escape(label)}</th><td>{html.escape(value)}</td></tr>"
        for label, value in figures(status)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name} · insitu</title>'
        '<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="5">'
        f"<style>{_STYLE}</style></head><body><h1>{name}</h1>{_health(problems)}"
        f"<table>{rows}</table><nav>{links}</nav></body></html>"
    )


def _health(problems: Sequence[str]) -> str:
    if not problems:
        return '<p class="good">Ready.</p>'
    items = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
    return f'<p class="bad">Not ready:</p><ul class="bad">{items}</ul>'
