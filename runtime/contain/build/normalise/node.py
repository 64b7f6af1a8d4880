"""npm's cache index without the times of its entries. Pure.

Each line of a file below ``index-v5`` is the SHA-1 of a JSON text, a tab and the text (npm's ``cacache``). The entry stays usable,
also with ``npm --offline``: it is only asked about again sooner, as an old one.
"""

from __future__ import annotations

import hashlib
import json
import re
import time

from contain.build.normalise.facts import FileFacts


def rewrite_npm_cache_entry(data: bytes, facts: FileFacts) -> bytes | None:
    """Of entries that the step made: times in milliseconds and the headers ``date`` and ``expires`` become the epoch."""
    epoch = facts.step.epoch_seconds
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(epoch)).encode()  # the C locale, as Python always starts with
    lines = data.split(b"\n")
    for index, line in enumerate(lines):
        digest, tab, text = line.partition(b"\t")
        made = re.search(rb'"time":(\d{13})[,}]', text)
        if not tab or made is None or not facts.step.is_now(int(made[1]) // 1000):
            continue
        if hashlib.sha1(text, usedforsecurity=False).hexdigest().encode() != digest:
            continue
        text = re.sub(rb'("time":)\d{10,14}(?=[,}])', rb"\g<1>%d" % (epoch * 1000), text)
        text = re.sub(rb'("(?:date|expires)":)"[^"\\]*"', rb'\g<1>"%s"' % date, text)
        try:
            json.loads(text)
        except ValueError:
            continue
        lines[index] = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode() + b"\t" + text
    wanted = b"\n".join(lines)
    return None if wanted == data else wanted
