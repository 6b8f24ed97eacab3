"""Chat engines behind reef.ports.ChatEngine, one module each; select.py chooses. Nothing here knows jobs or queues."""
