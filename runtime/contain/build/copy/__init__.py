"""COPY and ADD: what is selected, where it goes, and the writer that puts it there."""
