"""Who is close to whom, and who matters: shortest paths and PageRank on a real social network.

The network is Zachary's karate club, in karate.txt beside this file (see SOURCES.md).
"""

from collections import deque
from pathlib import Path

LINES = (Path(__file__).parent / "karate.txt").read_text().splitlines()
EDGES = [tuple(map(int, line.split())) for line in LINES if line and not line.startswith("#")]
NEIGHBOURS: dict[int, list[int]] = {}
for one, other in EDGES:
    NEIGHBOURS.setdefault(one, []).append(other)
    NEIGHBOURS.setdefault(other, []).append(one)


def handler(start: int = 1, end: int = 34, top: int = 5) -> dict:
    """Return a shortest path between two members, and the members of highest rank."""
    ranks = pagerank()
    best = sorted(ranks, key=ranks.__getitem__, reverse=True)[:top]
    return {
        "members": len(NEIGHBOURS),
        "friendships": len(EDGES),
        "path": shortest_path(start, end),
        "rank": [[member, round(ranks[member], 4)] for member in best],
    }


def shortest_path(start: int, end: int) -> list[int]:
    """Return a path of fewest steps, by breadth-first search."""
    came_from = {start: start}
    queue = deque([start])
    while queue and end not in came_from:
        here = queue.popleft()
        for there in NEIGHBOURS.get(here, []):
            if there not in came_from:
                came_from[there] = here
                queue.append(there)
    if end not in came_from:
        return []
    path = [end]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return path[::-1]


def pagerank(damping: float = 0.85, steps: int = 60) -> dict[int, float]:
    """Return each member's share of a random walk, by power iteration."""
    count = len(NEIGHBOURS)
    ranks = dict.fromkeys(NEIGHBOURS, 1 / count)
    for _ in range(steps):
        ranks = {
            member: (1 - damping) / count + damping * sum(ranks[friend] / len(NEIGHBOURS[friend]) for friend in friends)
            for member, friends in NEIGHBOURS.items()
        }
    return ranks
