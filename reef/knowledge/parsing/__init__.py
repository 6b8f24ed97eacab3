"""Files as text. The worker uses `pool`; everything else here runs in its child processes, one file at a time."""
