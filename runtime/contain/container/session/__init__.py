"""A test session's containers: the worker, and sandboxes made ahead of need."""
