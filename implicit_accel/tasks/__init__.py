"""Any model as a task: a loss of one's own, swept over any axes."""
