"""The programs: flags → frozen configuration → library → files."""

import os

# Figures go to files: whatever backend a notebook or a shell has chosen, none is needed.
os.environ.pop("MPLBACKEND", None)
