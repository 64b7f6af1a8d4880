"""The caller's streams, terminal and signals, and a container's."""
