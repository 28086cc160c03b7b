"""The SQLite adapters of the Store and Queue ports."""
