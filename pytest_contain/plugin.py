"""The plugin's entry point: declares what users type, and loads the rest only where it is used.

Decides nothing. Importing it imports nothing of ``contain``.
"""

from __future__ import annotations
