"""The sources as programs, over real sockets: every service gets the same stream, whole."""

from __future__ import annotations

import numpy as np
import pytest

from insitu_producers.sources import digits, reaction_diffusion, synthetic
from insitu_producers.sources.digits import digit_pushes, load_digits
from peer import Peer, Stored

EVALUATE = 1


def rows_by_flag(stored: Stored) -> tuple[int, int]:
    """(rows to train, rows held out) that a service has got."""
    held_out = sum(data.rows for data, _ in stored.batches if data.flags & EVALUATE)
    return sum(data.rows for data, _ in stored.batches) - held_out, held_out


def test_two_services_get_the_same_digits(capsys: pytest.CaptureFixture[str]) -> None:
    with Peer("tcp://127.0.0.1:*") as one, Peer("tcp://127.0.0.1:*") as other:
        code = digits.main(
            ["--endpoint", one.endpoint, "--endpoint", other.endpoint, "--seed", "5"]
        )
        assert code == 0
        stored = [peer.store["digits-source"] for peer in (one, other)]
    assert "1797 samples accepted" in capsys.readouterr().out
    expected = [
        label for push in digit_pushes(load_digits(), seed=5) for label in push.fields["y"].tolist()
    ]
    for service in stored:
        assert service.rows("y") == expected
        assert service.bye is not None
        assert rows_by_flag(service) == (1438, 359)
        tasks = dict.fromkeys(data.task for data, _ in service.batches)
        assert list(tasks) == ["0-1", "2-3", "4-5", "6-7", "8-9"]


def test_reaction_diffusion_pushes_its_fields_with_the_step_as_cursor() -> None:
    with Peer("tcp://127.0.0.1:*") as peer:
        words = f"--endpoint {peer.endpoint} --size 16 --members 3 --held-out-members 1"
        words += " --transient-steps 20 --steps-per-push 5 --pushes-per-regime 2"
        code = reaction_diffusion.main(words.split())
        assert code == 0
        stored = peer.store["gray-scott-source"]
    assert rows_by_flag(stored) == (16, 8)
    fields = np.array(stored.rows("x"))
    assert fields.shape == (24, 2, 16, 16)
    assert np.isfinite(fields).all()
    cursors = [data.cursor for data, _ in stored.batches]
    assert cursors == sorted(cursors)
    assert cursors[-1] == 4 * (20 + 2 * 5)


def test_synthetic_pushes_what_it_is_told() -> None:
    with Peer("tcp://127.0.0.1:*") as peer:
        code = synthetic.main(
            ["--endpoint", peer.endpoint, "--pushes", "7", "--rows-per-push", "3", "--floats", "4"]
        )
        assert code == 0
        assert sum(data.rows for data, _ in peer.store["synthetic-source"].batches) == 21


def test_a_service_that_never_comes_ends_the_source_with_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = synthetic.main(["--endpoint", "tcp://127.0.0.1:9", "--pushes", "1", "--timeout", "0.2"])
    assert code == 1
    assert "producer's fault" in capsys.readouterr().err


def test_members_that_do_not_fit_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reaction_diffusion.main(
            ["--endpoint", "tcp://127.0.0.1:9", "--members", "2", "--held-out-members", "2"]
        )
    assert "less than --members" in capsys.readouterr().err
