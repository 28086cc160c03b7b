"""The confined side: VM init and containers. Assume that the neighbour is hostile."""
