"""The command ``contain``: arguments to engine calls, results to text. Nothing else in the engine prints."""
