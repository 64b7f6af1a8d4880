"""What a build did, for locks and provenance."""
