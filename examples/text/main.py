"""Make a text short: the sentences that say most of it, and the words that it is about.

The text comes with the call, or from a store of documents: then `store` is its URL and the secret `store_key` opens it. Lent to another
account, both are that account's own: its documents are fetched with its key, and nobody else sees either.
"""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections import Counter
from typing import Any

COMMON = frozenset(
    {"and", "are", "been", "but", "for", "from", "had", "has", "have", "into", "its", "not", "than", "that"}
    | {"the", "their", "there", "they", "this", "was", "were", "when", "which", "with"}
)
SHORTEST = 3  # letters of a word that a text can be about
TIMEOUT_S = 5.0


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Return {summary, about, words} of `text`, or of the `document` in `store`; `sentences` says how long it may be."""
    text = event["text"] if "text" in event else fetch(event["store"], event["document"], context.secrets.get("store_key", ""))
    words = [word.lower() for word in re.findall(r"[^\W\d_]+", text)]
    about = Counter(word for word in words if word not in COMMON and len(word) >= SHORTEST)
    print("made", len(words), "words short")
    return {"summary": shorten(text, about, int(event.get("sentences", 2))), "about": [word for word, _ in about.most_common(3)], "words": len(words)}


def fetch(store: str, document: str, key: str) -> str:
    """Return a document's text from a store."""
    url = f"{store}/{urllib.parse.quote(document, safe='')}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})  # noqa: S310 - a file of the container is no secret
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return str(json.load(answer)["text"])


def shorten(text: str, about: Counter[str], count: int) -> str:
    """Return the `count` sentences with the most frequent words, in their order."""
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())

    def weight(sentence: str) -> float:
        found = [word.lower() for word in re.findall(r"[^\W\d_]+", sentence)]
        return sum(about[word] for word in found) / max(1, len(found))

    best = sorted(range(len(sentences)), key=lambda i: -weight(sentences[i]))[:count]
    return " ".join(sentences[i] for i in sorted(best))
