"""Greet someone: a plain function, whose arguments are checked against its annotations."""


def handler(name: str = "world", times: int = 1) -> dict[str, str]:
    """Return a greeting."""
    return {"greeting": " ".join([f"hello, {name}!"] * times)}
