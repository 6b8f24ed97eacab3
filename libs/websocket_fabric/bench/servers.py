"""The servers that are measured beside each other, one a process: `python servers.py NAME PORT`."""
