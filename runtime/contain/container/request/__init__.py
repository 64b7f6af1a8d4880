"""What is asked of a container, from a command line's words to a spec with nothing left open. Pure, but for looking."""
