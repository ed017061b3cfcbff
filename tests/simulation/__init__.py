"""Deterministic simulation of the whole stream: producers, network, service and learner.

One thread, virtual time, one seed. The state machines are those of the daemon and of the client
(`Turn`, `Reception`, `Lobby`, `DataPath`, `Acknowledger`, `Receiver`, `StreamBuffer` on one side,
`Dialogue`, `ProducerSession`, `SendWindow` on the other); what is simulated is what they have not:
sockets, threads, clocks, disks and the outside world. Faults are drawn from the seed, the books
are checked after every event, and a seed that fails fails again, event by event.

    cd tests && python -m simulation --seeds 0:1000

After FoundationDB's simulation (Zhou et al., SIGMOD 2021, section 4); which faults a schedule
has, and how many, is drawn as well (swarm testing: Groce et al., ISSTA 2012), since faults that are
always on hide what only a few of them together bring about.
"""
