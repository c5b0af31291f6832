"""What makes a run safe: its folder, its checkpoints, going on and extending."""
