"""Web pages that need no other file: an explorer of results, and the document around it."""
