"""What a producer can do beyond the first release of version 1, and tells in its HELLO.

An addition to the protocol is a capability: who does not offer it never meets what it brings, and
a peer that does not know it ignores it. So old and new peers understand each other both ways.
"""

from __future__ import annotations

#: it understands row counts at the end of WELCOME and NACK
ROW_COUNTS = "row_counts"

#: this run of the producer goes on right behind `last_cursor`, row for row
RESUMES = "resumes"
