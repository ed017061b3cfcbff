"""The sections of the service itself: who it is, its address for HTTP, its hooks.

A relative path is looked up from the working directory of the service, as in a shell.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from insitu.config.setting import OptionalPath, Section, refuse, setting


class ServiceSection(Section):
    """Who this service is and how it talks to its log."""

    name: Annotated[
        str,
        setting(
            "Name of the service in its log, metrics and status.",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        ),
    ] = "insitu"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], setting("The least severe lines to log.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "plain"],
        setting("Form of a log line on stderr; `auto` is plain on a terminal, else json."),
    ] = "auto"
    drain_on_stop: Annotated[
        bool,
        setting(
            "Whether a stop trains what is pending first. Else it stays in the checkpoint, and a "
            "resumed run with the fixed pace equals one that was never stopped, bit by bit."
        ),
    ] = True
    allow_root: Annotated[
        bool, setting("Leaves out the warning that the service runs as root, as in a container.")
    ] = False
    hang_seconds: Annotated[
        float,
        setting(
            "A worker that has not come by for so long hangs: the stacks of all threads go to "
            "stderr and the process ends with code 8, to be started again with --resume-if-any. "
            "Longer than the longest step, evaluation or compilation.",
            unit="seconds",
            ge=3,
        ),
    ] = 300.0
    drain_seconds: Annotated[
        float,
        setting(
            "How long a stop may train what is pending; the rest stays in the checkpoint.",
            unit="seconds",
            ge=0,
        ),
    ] = 60.0


class HttpSection(Section):
    """Metrics, health, status and control over HTTP."""

    host: Annotated[
        str,
        setting(
            "Address to bind; other than loopback needs token_file, and a certificate or "
            "trusted_network.",
            min_length=1,
        ),
    ] = "127.0.0.1"
    port: Annotated[int, setting("Port to bind; 0 takes any free one.", ge=0, le=65535)] = 9100
    token_file: Annotated[
        OptionalPath,
        setting("File with the secret that requests must show as a bearer token."),
    ] = None
    open_addresses: Annotated[
        tuple[Literal["/", "/metrics", "/livez", "/readyz", "/status"], ...],
        setting("What may be read without the token, where there is one."),
    ] = ("/metrics", "/livez", "/readyz")
    certificate_file: Annotated[
        OptionalPath,
        setting("Certificate (PEM, with its chain) to answer over TLS; plain HTTP when null."),
    ] = None
    key_file: Annotated[OptionalPath, setting("The certificate's private key, in PEM.")] = None
    trusted_network: Annotated[
        bool,
        setting(
            "Says that the network is trusted: needed to bind an address other than loopback "
            "without a certificate, because the token can be read on the way."
        ),
    ] = False

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise refuse("certificate", "certificate_file and key_file go together; one is null")
        return self


class HookSection(Section):
    """Something to run when something happens; it watches and never changes learning."""

    on: Annotated[
        Literal["start", "step", "task_end", "evaluation", "checkpoint", "alert", "stop"],
        setting("The event; the table of hooks says when each comes and what it carries."),
    ]
    shell: Annotated[
        str | tuple[str, ...] | None,
        setting(
            "A command, as a line for the shell or a list of words; the event is JSON on stdin."
        ),
    ] = None
    python: Annotated[
        str | None,
        setting("A callable `f(event: dict)` as package.module:function.", pattern=r"^[\w.]+:\w+$"),
    ] = None
    post: Annotated[
        str | None, setting("A URL that gets the event as JSON.", pattern=r"^https?://\S+$")
    ] = None
    every: Annotated[int, setting("Run at each so many events only.", unit="events", ge=1)] = 1
    timeout_seconds: Annotated[
        float, setting("It is ended, or given up on, after this long.", unit="seconds", gt=0)
    ] = 10.0

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        given = [name for name in ("shell", "python", "post") if getattr(self, name)]
        if len(given) != 1:
            raise refuse(
                "hook_action",
                "a hook takes exactly one of shell, python and post; this has {given}",
                given=" and ".join(given) or "none",
            )
        return self
