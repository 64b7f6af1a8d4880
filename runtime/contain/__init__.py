"""contain: a daemonless container engine. The public names are those of `contain.engine`;."""
