"""What is in a container, and what it is put together from: volumes, copies, archives, the machine's own root."""
