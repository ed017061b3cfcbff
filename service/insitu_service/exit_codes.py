"""The exit codes of `insitu`, written once; the documentation's table is made from them."""

from __future__ import annotations

OK = 0
INTERNAL = 1
USAGE = 2
RESOURCE = 3
UNREACHABLE = 4
NON_FINITE = 5
CHECKPOINT = 6
PLUGIN = 7
HANG = 8
INTERRUPTED = 130

#: What each says, in the order of the documentation.
MEANINGS: dict[int, str] = {
    OK: "Done. For `serve`: stopped as asked, drained, and checkpointed where configured.",
    INTERNAL: "A fault in insitu itself; please report it with the lines above.",
    USAGE: "The command line or the configuration is wrong; nothing was started.",
    RESOURCE: "A port, a file, a directory or memory could not be had.",
    UNREACHABLE: "No service answers, or it did not carry out the command.",
    NON_FINITE: "Training stopped at a loss or gradient that is not finite.",
    CHECKPOINT: "No checkpoint could be resumed from: none is there, or all are damaged; or the "
    "stream log is damaged, or another one than the checkpoint's.",
    PLUGIN: "The operator's own model, objective, strategy or schedule raised an error.",
    HANG: "A thread of the service hung; stacks are on stderr. Start again with --resume or "
    "--resume-if-any.",
    INTERRUPTED: "A second signal ended the service at once, without draining.",
}
