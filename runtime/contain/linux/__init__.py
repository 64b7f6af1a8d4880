"""Effects on the kernel: the only system calls, netlink and control groups of the engine."""
