"""`serve`: from a checked configuration to an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import zmq
from prometheus_client import CollectorRegistry

from insitu import __version__
from insitu.config import Config, read_clients
from insitu.errors import InsituError
from insitu_service.compose import Service, compose
from insitu_service.daemon import Closable, Daemon
from insitu_service.http.application import create_app
from insitu_service.http.server import Certificate, HttpServer, bind_listener
from insitu_service.monitoring.collector import InsituCollector, expose
from insitu_service.monitoring.logs import configure_logs
from insitu_service.monitoring.overview import Overview
from insitu_service.monitoring.progress import show_progress
from insitu_service.monitoring.readings import Readings
from insitu_service.security.secrecy import Secrets
from insitu_service.supervision.alarm import Alarm
from insitu_service.supervision.descriptors import raise_limit, within_descriptors
from insitu_service.supervision.heap import settle_garbage_collector
from insitu_service.supervision.signals import Signals
from insitu_service.supervision.supervisor import Supervisor
from insitu_service.supervision.watchdog import Watchdog

_log = logging.getLogger("insitu.daemon")

#: the second line of the watchdog waits so much longer than the first
_TIMER_SLACK_SECONDS = 5.0
#: a turn of the ingest thread takes milliseconds; whoever waits so long for it should know
_SLOW_SECONDS = 5.0
#: what the service makes can be read by its own user alone: files, directories, sockets
_UMASK = 0o077


def serve(config: Config, *, resume: bool, reread: Callable[[], Config]) -> int:
    """Run the service until it is told to stop.

    Args:
        resume: go on from the newest good checkpoint.
        reread: reads the configuration again, for SIGHUP.

    Raises:
        OperatorError: something cannot be had or built; nothing was started.
    """
    secrets = Secrets.of(config, os.environ)
    configure_logs(config.service.log_level, config.service.log_format, secrets=secrets.texts)
    os.umask(_UMASK)
    _warn_of_the_unsafe(config, secrets)
    descriptors = raise_limit()
    config = within_descriptors(config, descriptors)
    listener = bind_listener(config.http.host, config.http.port)
    context: zmq.Context[Any] = zmq.Context()
    try:
        with Signals() as signals:
            service = compose(config, context, resume=resume, secrets=secrets)
            overview = Overview(service)
            certificate = Certificate.of(config.http)
            http = HttpServer(_app(service, overview, secrets), listener, certificate)
            if service.log is not None:
                service.log.syncer.start()
            settle_garbage_collector()
            _announce(service, http)

            def again() -> Config:
                return within_descriptors(reread(), descriptors)

            daemon = Daemon(
                service.ingest,
                service.learner,
                service.commands,
                Supervisor(),
                reload=lambda: _reload(service, http, secrets, again),
                watchdog=Watchdog(
                    {"ingest": service.ingest.beat, "learner": service.learner_beat},
                    timer_seconds=2 * config.service.hang_seconds + _TIMER_SLACK_SECONDS,
                ),
                alarm=Alarm(lambda: stopped(service), partial(_alert, service)),
                closables=_closables(service, overview, http),
            )
            return daemon.run(signals, f"serving at {http.url}")
    finally:
        listener.close()
        context.destroy(linger=0)


def _warn_of_the_unsafe(config: Config, secrets: Secrets) -> None:
    if os.geteuid() == 0 and not config.service.allow_root:
        _log.warning(
            "the service runs as root and needs no such rights: run it as a user of its own, or "
            "set service.allow_root: true where there is no other, as in a container"
        )
    for path in secrets.readable_files:
        _log.warning("other users may read the secret in %s: chmod 600 %s", path, path)


def _app(service: Service, overview: Overview, secrets: Secrets) -> Any:
    registry = CollectorRegistry()
    registry.register(InsituCollector(Readings(service, lambda: not problems(service)).read))
    return create_app(
        exposition=lambda accept: expose(registry, accept),
        status=overview.status,
        ready=lambda: problems(service),
        alive=lambda: alive(service),
        post=service.commands.post,
        token=secrets.http_token,
        open_addresses=service.config.http.open_addresses,
    )


def alive(service: Service) -> bool:
    """Both workers come by, and the learner has not stopped."""
    beats = service.ingest.beat, service.learner_beat
    return service.learner.state != "stopped" and all(beat.alive for beat in beats)


def stopped(service: Service) -> str:
    """Why nothing can be accepted, for reasons that the operator can see to; empty when it can."""
    if service.inlet.problem:
        return service.inlet.problem
    if service.log is not None and service.log.syncer.problem:
        return service.log.syncer.problem
    age = service.ingest.beat.age_seconds
    if age > _SLOW_SECONDS:
        return (
            f"the ingest thread has been busy for {age:.0f} s; the disk of the log may be stalled"
        )
    return ""


def _alert(service: Service, kind: str, text: str) -> None:
    service.tally.alerts[kind] += 1
    service.hooks.emit("alert", {"kind": kind, "text": text, "step": service.trainer.steps})


def problems(service: Service) -> list[str]:
    """Why the service takes no samples now; empty when it does."""
    found = []
    if service.learner.state != "running":
        found.append(f"the service is {service.learner.state}")
    if not alive(service):
        found.append("a worker hangs")
    if service.config.buffer.when_full == "block" and service.buffer.free_samples() == 0:
        found.append("the stream buffer is full")
    if reason := stopped(service):
        found.append(reason)
    if service.writer is not None and service.writer.counters.failing:
        found.append("the last checkpoint could not be written")
    return found


def _announce(service: Service, http: HttpServer) -> None:
    config = service.config
    _log.info(
        "serving stream %s: %s on %s, metrics and control at %s",
        ", ".join(config.stream.names),
        config.model.name,
        service.device,
        http.url,
        extra={
            "url": http.url,
            "endpoints": service.ingest.endpoints,
            "version": __version__,
            "step": service.trainer.steps,
        },
    )


def _closables(service: Service, overview: Overview, http: HttpServer) -> list[Closable]:
    """In the order of closing: hooks hear of the last checkpoint, HTTP answers to the end."""
    parts: list[Closable] = [service.hooks, http]
    if service.writer is not None:
        parts.insert(0, service.writer)
    if service.log is not None:
        parts.append(service.log)
    if sys.stdout.isatty():
        parts.insert(0, show_progress(overview.status))
    return parts


def _reload(
    service: Service, http: HttpServer, secrets: Secrets, reread: Callable[[], Config]
) -> None:
    """Take over what can change while running; keep the old configuration when it is wrong."""
    try:
        config = reread()
        _renew_keys(service)
        http.renew_certificate()
    except (InsituError, OSError) as error:
        _log.error("the configuration is wrong, the old one stays: %s", error)
        return
    configure_logs(config.service.log_level, config.service.log_format, secrets=secrets.texts)
    section = config.checkpoint
    service.recorder.reschedule(section.every_steps, section.every_seconds)
    taken = {"service": {"log_level", "log_format"}, "checkpoint": {"every_steps", "every_seconds"}}
    others = [
        f"{name}.{field}"
        for name in type(config).model_fields
        for field in _changed(getattr(service.config, name), getattr(config, name))
        if field not in taken.get(name, set())
    ]
    if others:
        _log.warning("changed, but only read at a start: %s", ", ".join(others))
    _log.info("the configuration was read again")


def _renew_keys(service: Service) -> None:
    """Read the allow-list again; whose key is gone loses its session at once."""
    curve = service.config.stream.curve
    if curve is not None and service.allow_list is not None:
        service.allow_list.replace(read_clients(curve.clients_file))
        service.ingest.recheck()


def _changed(old: Any, new: Any) -> list[str]:
    if not hasattr(type(new), "model_fields"):
        return [] if old == new else ["*"]
    return [f for f in type(new).model_fields if getattr(old, f) != getattr(new, f)]
