"""The gateway: one process, one loop, for every connection that lives long. What it holds is the web process's too."""
