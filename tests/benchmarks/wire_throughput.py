"""Producer -> wire -> warm ring, beside a bare DEALER/ROUTER pair that does the same copy.

Both sides of each pair run in processes of their own over tcp loopback; the two kinds of runs
alternate, and the ratio is of the medians. Prints GB/s, CPU seconds per GB, and the ratios.

    python tests/benchmarks/wire_throughput.py [--rounds 5] [--zero-copy-floor]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import zmq

RING_BYTES = 64 << 20
ACK_BATCHES = 8


class Ring:
    def __init__(self) -> None:
        self.memory = np.ones(RING_BYTES, np.uint8)
        self.end = 0

    def write(self, data: Any) -> None:
        size = len(data)
        if self.end + size > RING_BYTES:
            self.end = 0
        self.memory[self.end : self.end + size] = np.frombuffer(data, np.uint8)
        self.end += size


def bare_receiver(ports: Queue[int], results: Queue[Any], total: int) -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    ports.put(socket.bind_to_random_port("tcp://127.0.0.1"))
    ring, received = Ring(), 0
    socket.poll()
    started, cpu = time.perf_counter(), time.process_time()
    while received < total:
        frame = socket.recv_multipart(copy=False)[-1].buffer
        ring.write(frame)
        received += len(frame)
    results.put((time.perf_counter() - started, time.process_time() - cpu))


def bare_sender(port: int, results: Queue[Any], total: int, size: int, copy: bool) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.SNDHWM, 32 if size >= 1 << 19 else 1000)
    socket.connect(f"tcp://127.0.0.1:{port}")
    data = np.ones(size, np.uint8)
    cpu = time.process_time()
    for _ in range(total // size):
        socket.send(b"h" * 60, zmq.SNDMORE)
        socket.send(data.data, copy=copy)
    context.destroy(linger=-1)
    results.put(time.process_time() - cpu)


def insitu_receiver(ports: Queue[int], results: Queue[Any], total: int) -> None:
    from insitu.wire.checksum import choose
    from insitu.wire.codec import decode, encode
    from insitu.wire.messages import Bye, Data, Hello, Ping, Pong, Welcome
    from insitu.wire.receiver import Receiver, Write

    socket = zmq.Context().socket(zmq.ROUTER)
    ports.put(socket.bind_to_random_port("tcp://127.0.0.1"))
    ring, received, receiver, credit = Ring(), 0, None, RING_BYTES // 2
    started = cpu = 0.0
    unanswered = 0
    while True:
        idle = not socket.poll(1 if unanswered else 1000)
        for _ in range(32):
            try:
                identity, *frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            message = decode([frame.buffer for frame in frames])
            if isinstance(message, Data):
                action = receiver.receive(message)
                assert isinstance(action, Write), action
                ring.write(message.payload)
                received += len(message.payload)
                if action.complete:
                    receiver.settled()
                unanswered += 1
            elif isinstance(message, Hello):
                kind = choose(message.capabilities)
                receiver = Receiver(1, message.schema.row_bytes, kind, 8 << 20)
                ack = receiver.ack(credit, 10_000)
                welcome = Welcome(
                    1, 1, 1, None, ack.credit_bytes, ack.credit_batches, "received", 1 << 20,
                    8 << 20, "block", kind, 1.0,
                )  # fmt: skip
                socket.send_multipart([identity, *encode(welcome)])
                started, cpu = time.perf_counter(), time.process_time()
            elif isinstance(message, Ping):
                socket.send_multipart([identity, *encode(receiver.ack(credit, 10_000))])
                socket.send_multipart([identity, *encode(Pong(1, message.stamp_ns))])
            elif isinstance(message, Bye):
                socket.send_multipart([identity, *encode(message)])
                return
        if unanswered >= ACK_BATCHES or (unanswered and idle):
            unanswered = 0
            socket.send_multipart([identity, *encode(receiver.ack(credit, 10_000))])
        if received >= total:
            results.put((time.perf_counter() - started, time.process_time() - cpu))
            total = 1 << 62


def insitu_sender(port: int, results: Queue[Any], total: int, size: int, copy: bool) -> None:
    from insitu_producers import Producer

    rows = 1
    arrays = {"x": np.ones((rows, size // 4), np.float32)}
    schema = {"x": ("float32", (size // 4,))}
    with Producer(
        f"tcp://127.0.0.1:{port}", stream="bench", producer_id="bench", schema=schema
    ) as producer:
        producer.wait_connected(10)
        cpu = time.process_time()
        for _ in range(total // size):
            producer.push(arrays)
        producer.flush(60)
        results.put(time.process_time() - cpu)


def run(kind: str, total: int, size: int, copy: bool) -> tuple[float, float]:
    """GB/s and CPU seconds per GB of one run."""
    context = multiprocessing.get_context("spawn")
    ports, received, sent = context.Queue(), context.Queue(), context.Queue()
    receiver, sender = PAIRS[kind]
    first = context.Process(target=receiver, args=(ports, received, total))
    first.start()
    second = context.Process(target=sender, args=(ports.get(), sent, total, size, copy))
    second.start()
    seconds, cpu = received.get()
    cpu += sent.get()
    first.join()
    second.join()
    return total / seconds / 1e9, cpu / total * 1e9


PAIRS = {"bare": (bare_receiver, bare_sender), "insitu": (insitu_receiver, insitu_sender)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--zero-copy-floor", action="store_true")
    arguments = parser.parse_args()
    print(
        f"{'size':>8} {'bare GB/s':>10} {'insitu':>8} {'ratio':>6} "
        f"{'CPU s/GB':>9} {'insitu':>7} {'ratio':>6}"
    )
    for size, total in ((1 << 20, 2 << 30), (64 << 10, 1 << 30), (4 << 10, 256 << 20)):
        found: dict[str, list[tuple[float, float]]] = {"bare": [], "insitu": []}
        for _ in range(arguments.rounds):
            for kind in found:
                found[kind].append(run(kind, total, size, not arguments.zero_copy_floor))
        rate = {kind: statistics.median(r for r, _ in runs) for kind, runs in found.items()}
        cost = {kind: statistics.median(c for _, c in runs) for kind, runs in found.items()}
        print(
            f"{size:>8} {rate['bare']:>10.2f} {rate['insitu']:>8.2f} "
            f"{rate['insitu'] / rate['bare']:>6.2f} {cost['bare']:>9.2f} {cost['insitu']:>7.2f} "
            f"{cost['insitu'] / cost['bare']:>6.2f}"
        )


if __name__ == "__main__":
    main()
