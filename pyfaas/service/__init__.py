"""The use cases; the only place where decisions and ports meet."""
