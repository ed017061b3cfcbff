"""What the service itself says became of the samples, in one life of its process."""

from __future__ import annotations

from dataclasses import dataclass

from daemon import Daemon


@dataclass(frozen=True)
class ServiceBooks:
    """Samples by what became of them."""

    received: int
    trained: int
    skipped: int
    pending: int
    dropped: int
    quarantined: int
    probes: int

    @property
    def difference(self) -> int:
        """received - all that became of it; 0 when the books balance."""
        gone = self.trained + self.skipped + self.pending + self.dropped
        return self.received - gone - self.quarantined - self.probes

    @classmethod
    def of(cls, daemon: Daemon) -> ServiceBooks:
        """As the metrics have it now; they are read one after another while samples move."""
        return cls(
            *(
                int(daemon.metric(name, **labels))
                for name, labels in (
                    ("insitu_received_samples_total", {}),
                    ("insitu_trained_samples_total", {"source": "fresh"}),
                    ("insitu_skipped_samples_total", {}),
                    ("insitu_buffer_unseen_samples", {}),
                    ("insitu_dropped_samples_total", {}),
                    ("insitu_quarantined_samples_total", {}),
                    ("insitu_probe_samples_total", {}),
                )
            )
        )
