"""HTTP: metrics, health, status, control, and a page for people."""
