"""The build cache: keys, look-up, explanations, its exchange with other machines, its limit, and replay."""
