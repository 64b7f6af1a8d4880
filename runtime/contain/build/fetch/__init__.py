"""What addresses name: files over HTTP, and git repositories."""
