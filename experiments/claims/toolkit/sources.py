"""Who made the claims."""

PAPER_2018 = "Arora, Cohen & Hazan 2018"
PAPER_2019 = "Arora, Cohen, Golowich & Hu 2019 (read)"
