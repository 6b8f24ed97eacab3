"""A thousand varied texts that every machine with Python has: prose, code, single words, many scripts, noise.

Built from the standard library's own documentation and sources, so nothing is downloaded and every run sees the same.
"""

from __future__ import annotations

import inspect
import json
import random
import re
import textwrap
import types
from collections.abc import Callable
from pydoc_data import topics

SEED = 7
_MODULES = (json, random, re, textwrap, types, inspect)
_PHRASES = (
    "The water is calm today.",
    "Где находится ближайшая аптека?",
    "明日の会議は午後三時に始まります。",
    "El perro duerme debajo de la mesa.",
    "القطار يغادر في الساعة السابعة صباحا",
    "Die Rechnung ist bis Freitag zu bezahlen.",
    "한국어로 된 짧은 문장입니다.",
    "Le chat a renversé la tasse de café.",
    "यह एक छोटा वाक्य है।",
    "hello",
    "🙂🙂🙂",
    "ERROR 503: upstream timed out (110: Connection timed out)",
    "SELECT name, count(*) FROM orders WHERE total > 100 GROUP BY name;",
    "3.14159 2.71828 1.41421",
    "Invoice no. 2024-0117, due 31 March, EUR 1,249.00",
)


def prose() -> list[str]:
    """Paragraphs of the language reference, of some 10 to 300 words."""
    parts = [" ".join(part.split()) for topic in topics.topics.values() for part in topic.split("\n\n")]
    return sorted({part for part in parts if 40 < len(part) < 2000})


def code() -> list[str]:
    """Functions of the standard library."""
    found = []
    for module in _MODULES:
        for _, thing in inspect.getmembers(module, inspect.isfunction):
            if thing.__module__ == module.__name__:
                found.append(inspect.getsource(thing)[:1500])
    return sorted(set(found))


def varied(count: int = 1000) -> list[str]:
    """Mostly prose of all lengths, then code, sentences, words, phrases in many scripts, and letters without sense."""
    chance = random.Random(SEED)
    paragraphs = prose()
    sentences = sorted({text for part in paragraphs for text in re.split(r"(?<=[.!?]) ", part) if 15 < len(text) < 200})
    words = sorted({word for part in paragraphs for word in re.findall(r"[a-z]{4,}", part)})
    snippets = code()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 .,-"
    makers: list[tuple[int, Callable[[], str]]] = [
        (45, lambda: chance.choice(paragraphs)),
        (25, lambda: chance.choice(sentences)),
        (10, lambda: chance.choice(snippets)),
        (8, lambda: " ".join(chance.sample(words, chance.randint(1, 4)))),
        (7, lambda: " ".join(chance.sample(_PHRASES, chance.randint(1, 3)))),
        (5, lambda: "".join(chance.choices(letters, k=chance.randint(5, 200)))),
    ]
    made: dict[str, None] = {}
    while len(made) < count:
        made[chance.choices([maker for _, maker in makers], [weight for weight, _ in makers])[0]()] = None
    return list(made)


def of_tokens(count: int, tokens: int) -> list[str]:
    """Different texts of about this many tokens each, for timing."""
    chance = random.Random(SEED)
    words = sorted({word for part in prose() for word in re.findall(r"[a-z]{3,7}", part)})
    return [" ".join(chance.choice(words) for _ in range(max(int(tokens / 1.35), 1))) for _ in range(count)]
