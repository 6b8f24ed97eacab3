"""Personas: who a user talks to. Stored in the records; four ship with the product."""
