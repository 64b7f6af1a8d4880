"""What a heredoc is, and which words announce one. Pure; `contain.dockerfile.syntax` collects the bodies."""

from __future__ import annotations

import re

from contain.dockerfile.words import unquoted_words
from contain.values import dataclass

_WORD = re.compile(r"([0-9]*)<<(-?)([^<]*)\Z")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """A document inside the Dockerfile: the lines between the instruction and the line that equals ``name``."""

    name: str
    content: str  # the lines as written, each with its line end
    expand: bool = True  # false where a part of the word was quoted: variables in the content are text
    strip_tabs: bool = False  # ``<<-``
    descriptor: int = 0

    @property
    def body(self) -> str:
        """What the document contains: ``content``, without leading tabs where ``<<-`` asks for that."""
        return _LEADING_TABS.sub("", self.content) if self.strip_tabs else self.content


def heredoc_word(text: str) -> Heredoc | None:
    """The heredoc that a single word such as ``<<EOF`` or ``3<<-'EOF'`` announces (its content empty), or None.

    Raises `UsageError` for an unbalanced quote.
    """
    match = _WORD.match(text)
    if match is None:
        return None
    words = unquoted_words(match[3].lstrip(), keep_quotes=False)
    if len(words) != 1:
        return None
    quoted = unquoted_words(match[3].lstrip(), keep_quotes=True)
    # The name is taken with and without its quotes: fewer quote characters without them means that some were syntax.
    expand = len(quoted) == 1 and _quote_count(words[0]) == _quote_count(quoted[0])
    return Heredoc(
        name=words[0], content="", expand=expand, strip_tabs=match[2] == "-", descriptor=int(match[1][:9]) if match[1] else 0
    )


def _quote_count(text: str) -> int:
    return text.count("'") + text.count('"')
