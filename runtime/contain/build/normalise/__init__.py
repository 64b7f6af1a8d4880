"""Takes the noise of package managers out of the layer of a RUN: logs, caches, times, identifiers.

`rules` says what is noise and what is done about it, `rewriters` are the pure functions that the rules name, `perform` applies them,
`causes` is the list of why builds differ, which ``contain build --verify`` names too.
"""

from contain.build.normalise.causes import CAUSES, Cause
from contain.build.normalise.facts import StepFacts
from contain.build.normalise.perform import Normalised, normalise
from contain.build.normalise.rules import RULES_VERSION, Action, Rule, find_rule

__all__ = ["CAUSES", "RULES_VERSION", "Action", "Cause", "Normalised", "Rule", "StepFacts", "find_rule", "normalise"]
