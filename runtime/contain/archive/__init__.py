"""Images as files: what ``contain save`` writes and ``contain load`` reads.

`layout`, `docker` and `legacy` decide what the documents in a file mean, `plan` decides what is written; `members`, `load` and
`save` are the doers. Nothing is imported here: a command loads only what it needs.
"""
