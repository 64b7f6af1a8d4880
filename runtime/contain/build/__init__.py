"""From a Dockerfile to an image.

`graph.resolve_build` (which stages) and `fold` (what each instruction means) decide, purely; `execute.build` does; `plan.plan` shows
what it would do. Base images come from the store, a registry or a base provider (`bases`).

Nothing is imported here: ``contain run`` needs one function of `bases` and must start fast.
"""
