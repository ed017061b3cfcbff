"""The examiner: probes that come again, and tasks that are younger than the buffer's state."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from insitu.batch import Batch, Column
from insitu.evaluation import EvaluationMatrix, ProbeSets
from insitu.tasks import TaskLedger
from insitu_service.learning.examiner import Examiner
from insitu_service.learning.probe_inbox import Probe, ProbeInbox


def examiner(ledger: TaskLedger) -> tuple[Examiner, ProbeInbox, ProbeSets]:
    inbox, probes = ProbeInbox(), ProbeSets(100, torch.Generator().manual_seed(0))
    matrix = EvaluationMatrix("accuracy", higher_is_better=True)
    return (
        Examiner(probes, matrix, inbox, ledger.index_of, lambda: ledger.names), inbox, probes,
    )  # fmt: skip


def probe(task: str, rows: Iterable[int], epoch: int = 1) -> Probe:
    numbers = list(rows)
    batch = Batch.of({"x": torch.tensor(numbers, dtype=torch.float32)})
    batch.provenance[:, Column.ROW] = torch.tensor(numbers)
    return Probe(task, batch, "prober", epoch)


def test_rows_that_come_again_in_other_batches_are_kept_once() -> None:
    ledger = TaskLedger()
    before, inbox, _ = examiner(ledger)
    inbox.put(probe("hot", range(0, 8)))
    state = before.state_dict()

    after, inbox, probes = examiner(ledger)
    after.load_state_dict(state)
    for rows in (range(0, 3), range(3, 12), range(12, 14)):  # cut anew, and new ones among them
        inbox.put(probe("hot", rows))
    after.take_in()
    assert probes.counts() == {0: 14}
    inbox.put(probe("hot", range(0, 5), epoch=2))
    inbox.put(probe("hot", range(5, 9), epoch=1))  # of the past
    after.take_in()
    assert probes.counts() == {0: 19}


def test_a_task_that_the_saved_buffer_does_not_know_keeps_its_index() -> None:
    """Its probe came while the checkpoint was taken: after the buffer, before the examiner."""
    ledger = TaskLedger()
    ledger.index_of("cold")
    saved_ledger = ledger.state_dict()
    before, inbox, _ = examiner(ledger)
    ledger.index_of("hot")
    inbox.put(probe("hot", range(4)))
    state = before.state_dict()

    ledger = TaskLedger()
    ledger.load_state_dict(saved_ledger)
    after, inbox, _ = examiner(ledger)
    after.load_state_dict(state)
    assert ledger.names == ("cold", "hot")
    assert after.picture.probes == {"hot": 4}
