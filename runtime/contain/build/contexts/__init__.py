"""What CONTEXT and --build-context mean, and opening those that are not directories here."""
