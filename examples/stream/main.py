"""Give items as they are made: a generator. Whoever leaves early closes it."""

from collections.abc import Iterator


def handler(text: str) -> Iterator[dict]:
    """Yield each different word with where it stands and how often it came so far."""
    seen: dict[str, int] = {}
    try:
        for position, word in enumerate(text.lower().split()):
            word = word.strip(".,;:!?\"'()")
            if word:
                seen[word] = seen.get(word, 0) + 1
                yield {"position": position, "word": word, "count": seen[word]}
    finally:
        print(f"{len(seen)} different words")
