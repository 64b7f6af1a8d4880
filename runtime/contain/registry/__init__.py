"""Images from registries: who is asked, how, and what is believed. The result goes into `contain.store`.

Source of the rules: OCI distribution-spec 1.1. Pulling only (`pull.pull`); `client` is made so that pushing can use it.
Nothing is imported here: most commands ask no registry and must start fast.
"""
