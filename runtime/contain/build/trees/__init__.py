"""Where files are copied from, seen as trees: a context, an image, a stage."""
