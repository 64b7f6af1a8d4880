"""Locks: what an image is made of, pinned, and a build held against it."""
