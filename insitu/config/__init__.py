"""The configuration of a service: one YAML file, checked as a whole before anything starts.

`service`, `stream`, `buffer`, `learning`, `continual`, `records` and `log` declare every setting
once, with its unit, range and meaning; `rules` says what settings must have in common;
`components` checks names and options of models, objectives, strategies and memories; `machine`
checks files and memory. All problems come in one error.
"""

from __future__ import annotations

from insitu.config.clients import Client, read_clients
from insitu.config.problem import ConfigError, Problem
from insitu.config.root import Config, check_config, effective, json_schema, load_config
from insitu.config.secrets import read_token, take_secret_key

__all__ = [
    "Client",
    "Config",
    "ConfigError",
    "Problem",
    "check_config",
    "effective",
    "json_schema",
    "load_config",
    "read_clients",
    "read_token",
    "take_secret_key",
]
