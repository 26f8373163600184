"""A noisy tenant beside a polite one, at a real server: without flowctl, and with it (``python -m flowctl.demo``)."""
