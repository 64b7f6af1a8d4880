"""A container's networks: on record, at its start and while it runs; the names on them; its ports."""
