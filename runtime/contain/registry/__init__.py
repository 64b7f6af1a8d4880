"""Images from registries: who is asked, how, and what is believed. The result goes into `contain.store`.

Source of the rules: OCI distribution-spec 1.1. Pulling only; `client` is made so that pushing can use it.
"""

from contain.registry.configuration import RegistryConfiguration, parse_configuration, read_configuration
from contain.registry.platform import host_platform, parse_platform
from contain.registry.pull import pull

__all__ = ["RegistryConfiguration", "host_platform", "parse_configuration", "parse_platform", "pull", "read_configuration"]
