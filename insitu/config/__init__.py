"""The configuration of a service: one YAML file, checked as a whole before anything starts.

`sections` declares every setting once, with its unit, range and meaning; `rules` says what
settings must have in common; `components` checks names and options of models, objectives,
strategies and memories; `machine` checks files and memory. All problems come in one error.
"""

from __future__ import annotations

from insitu.config.machine import read_token
from insitu.config.problem import ConfigError, Problem
from insitu.config.root import Config, check_config, effective, json_schema, load_config

__all__ = [
    "Config",
    "ConfigError",
    "Problem",
    "check_config",
    "effective",
    "json_schema",
    "load_config",
    "read_token",
]
