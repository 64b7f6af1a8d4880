"""Files that run inside an environment, by path, on the image's Python (>= 3.8): standard library and pytest only.

They import neither ``contain`` nor ``pytest_contain``; the host never imports them to run tests.
"""
