"""Containers: from a spec to processes, kept on record; and the prepared ones of a test session.

`plan` decides, `launch` starts, `run`, `supervisor` and `lifecycle` look after; `keeper` and `sessions` are the two ends of a test
session. Nothing is imported here: a supervisor stays, and is to stay small.
"""
