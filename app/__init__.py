"""The front door: validates, records, admits, enqueues and relays. Loads no model and runs no job."""

__version__ = "0.1.0"
