"""The programs: flags → frozen configuration → library → files."""
