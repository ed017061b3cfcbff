"""The floor of ingest: a bare pyzmq DEALER/ROUTER pair over tcp that copies into a warm ring.

No protocol, no checks, no acknowledgement, no sampling: what the machine can do at all. The
sender leaves pyzmq's default, which copies the payload, so that the caller may reuse its array at
once, as after `push`. With `zero_copy` it hands out one buffer that never changes.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import zmq

_HIGH_WATER_BYTES = 64 << 20


@dataclass(frozen=True)
class Throughput:
    """Payload moved between two processes."""

    bytes_per_second: float
    cpu_seconds_per_gigabyte: float  # of both processes together


def cpu_seconds() -> float:
    """User and system seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _send(
    endpoint: str, size_bytes: int, messages: int, zero_copy: bool, results: Connection
) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.sndhwm = max(4, _HIGH_WATER_BYTES // size_bytes)
    socket.connect(endpoint)
    payload = np.random.default_rng(0).bytes(size_bytes)
    socket.send(b"ready")
    socket.recv()
    began = cpu_seconds()
    for _ in range(messages):
        if zero_copy:
            socket.send(payload, copy=False)
        else:
            socket.send(payload)
    socket.recv()
    results.send(cpu_seconds() - began)
    socket.close()
    context.term()


def _receive(size_bytes: int, messages: int, ports: Connection) -> None:
    ring = np.zeros((max(4, _HIGH_WATER_BYTES // size_bytes), size_bytes), np.uint8)
    ring.fill(1)  # touched: a fresh page would cost more than the copy into it
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.rcvhwm = max(4, _HIGH_WATER_BYTES // size_bytes)
    ports.send(router.bind_to_random_port("tcp://127.0.0.1"))
    identity, _ready = router.recv_multipart()
    router.send_multipart([identity, b"go"])
    began, began_cpu = time.perf_counter(), cpu_seconds()
    for index in range(messages):
        router.recv()
        frame = router.recv(copy=False)
        ring[index % len(ring)] = np.frombuffer(frame.buffer, np.uint8)
    ports.send((time.perf_counter() - began, cpu_seconds() - began_cpu))
    router.send_multipart([identity, b"done"])
    router.close()
    context.term()


def measure_bare_pair(size_bytes: int, total_bytes: int, *, zero_copy: bool = False) -> Throughput:
    """Send `total_bytes` in messages of `size_bytes` between two fresh processes."""
    messages = max(1, total_bytes // size_bytes)
    spawn = multiprocessing.get_context("spawn")
    receiver, of_receiver = spawn.Pipe()
    sender, of_sender = spawn.Pipe()
    processes = [spawn.Process(target=_receive, args=(size_bytes, messages, of_receiver))]
    processes[0].start()
    endpoint = f"tcp://127.0.0.1:{receiver.recv()}"
    arguments = (endpoint, size_bytes, messages, zero_copy, of_sender)
    processes.append(spawn.Process(target=_send, args=arguments))
    processes[1].start()
    wall, cpu = receiver.recv()
    cpu += sender.recv()
    for process in processes:
        process.join()
    moved = messages * size_bytes
    return Throughput(moved / wall, cpu / moved * 1e9)
