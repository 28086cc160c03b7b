"""Decisions: plain functions over plain values, without I/O and without a clock of their own."""
