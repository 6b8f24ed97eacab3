"""The REST endpoints, one module per resource, and the table of them all (routes.py)."""
