"""RUN: its container, its mounts, and what the machine lends it."""
