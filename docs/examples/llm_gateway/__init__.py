"""A gateway in front of a language model: many tenants, one model, and everybody gets a fair share of its memory."""
