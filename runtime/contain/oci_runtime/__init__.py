"""An OCI runtime on this engine's core: ``contain oci create|start|state|kill|delete ...`` under other engines.

A container here belongs to whoever called: nothing of ours stays with it. What is known of it stands in one directory below ``--root``,
and whether it lives is asked of the kernel.
"""
