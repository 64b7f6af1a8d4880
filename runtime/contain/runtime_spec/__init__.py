"""What an OCI bundle asks for, as frozen values: ``config.json``, a process of ``exec``, and what a runtime says of itself.

Pure: text in, values out. What the Open Container Initiative's runtime specification 1.2 defines and this engine cannot do is refused
by name; members that it does not define are ignored, as it demands ("Extensibility").
"""
