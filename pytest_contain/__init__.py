"""Run each test in its own container of a declared environment."""
