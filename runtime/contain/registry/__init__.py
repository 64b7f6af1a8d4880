"""Images from registries: who is asked, how, and what is believed. The result goes into `contain.store`.

Source of the rules: OCI distribution-spec 1.1. `pull.pull`, `push.push`, `login.log_in`, and `artifacts` for what is no image.
Nothing is imported here: most commands ask no registry and must start fast.
"""
