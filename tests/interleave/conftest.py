"""The explorer needs a GIL: without one, greenlet 3.2.2 (what installs on 3.13t) crashes once in millions of switches.

It loses nothing: all its actors run on one thread, so that the same schedules are explored on any build.
"""

import sysconfig

collect_ignore_glob = ["test_*.py"] if sysconfig.get_config_var("Py_GIL_DISABLED") else []
