"""Policies: small classes that only choose. No lock, no clock, no log, no state of their own."""
