"""What claims are tested with: the laboratory, measures, reports, and what families share."""
