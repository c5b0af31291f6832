"""Reports on claims: one view of the findings, and templates for Markdown, page and article."""
