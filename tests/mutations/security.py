"""Security without its checks: of keys, names, streams, tokens, rates, strangers and modes."""

from __future__ import annotations

from typing import Any

from insitu_service.security.allow_list import AllowList
from mutations.base import Mutation, constantly

GATE = "tests/test_gatekeeper.py"
STRANGERS = "tests/test_strangers.py"
FLOODS = "tests/test_flood_gate.py"
CONFIG = "tests/test_config_security.py"
KEYS = "tests/test_keys_command.py"


def _any_key(self: AllowList, key: str) -> str:
    return "somebody"


def _nobody_surplus(self: Any, with_session: Any) -> list[int]:
    return []


MUTATIONS = {
    "any key may connect": Mutation(
        "insitu_service.security.allow_list:AllowList.name_of", _any_key, GATE
    ),
    "a key may greet as anybody": Mutation(
        "insitu.config.clients:Client.may_be", constantly(True), GATE
    ),
    "a key may push to any stream": Mutation(
        "insitu.config.clients:Client.may_push_to", constantly(True), GATE
    ),
    "greetings are not held against the key": Mutation(
        "insitu_service.security.allow_list:AllowList.objection", constantly(""), GATE
    ),
    "any token is right": Mutation(
        "insitu_service.ingest.greeting:hmac.compare_digest", constantly(True), GATE
    ),
    "handshakes come as they like": Mutation(
        "insitu_service.security.rate_limit:RateLimit.allows", constantly(True), GATE
    ),
    "strangers are never too many": Mutation(
        "insitu_service.security.strangers:Strangers._surplus", _nobody_surplus, STRANGERS
    ),
    "strangers may send what they like": Mutation(
        "insitu_service.security.strangers:received_bytes", constantly(0), STRANGERS
    ),
    "who sends too much to no purpose is heard": Mutation(
        "insitu_service.security.flood_gate:FloodGate.is_shut", constantly(False), FLOODS
    ),
    "every address is loopback": Mutation(
        "insitu.config.rules:is_loopback", constantly(True), CONFIG
    ),
    "files with secrets may be read by all": Mutation(
        "insitu.config.secrets:open_to_others", constantly(False), CONFIG
    ),
    "keys are overwritten": Mutation("insitu_service.cli.keys:_check_free", constantly(None), KEYS),
}
