"""The sources of the claims, and how well they are known."""

from __future__ import annotations

PAPER_2018 = "Arora, Cohen & Hazan 2018"
PAPER_2019 = "Arora, Cohen, Golowich & Hu 2019 (read)"
