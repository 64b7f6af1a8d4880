"""contain: a daemonless container engine. Its public names are those of `contain.engine`."""
