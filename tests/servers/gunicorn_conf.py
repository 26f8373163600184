"""As a user's `gunicorn.conf.py`: two workers with sixteen threads each, and the hooks."""

from flowctl.integrations.gunicorn import post_worker_init, worker_exit

__all__ = ["post_worker_init", "worker_exit"]

worker_class = "gthread"
workers = 2
threads = 16
graceful_timeout = 4
