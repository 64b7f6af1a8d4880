"""contain: a daemonless container engine. Its public names are those of `contain.engine`."""

__version__ = "0.1.0"
