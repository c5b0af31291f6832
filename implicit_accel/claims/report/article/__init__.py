"""The replication article: `fill` gives the findings as data, `typeset` makes the pages.

``article.typ`` is the text, ``style.typ`` its layout and the functions that put the findings'
numbers and verdicts into it, ``references.bib`` what it cites. Whatever comes from the findings
reaches them as strings of ``article.json``, which Typst shows as they are, never as markup.
"""
