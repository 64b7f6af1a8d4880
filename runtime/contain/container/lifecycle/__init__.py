"""A container on record: its states, the process that stays with it, and what commands do to it."""
