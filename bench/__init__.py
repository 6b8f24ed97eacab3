"""Figures of the documents: each bench measures Coral Reef beside a named peer in the same run. `python -m bench`.

Nothing here is part of the product, and nothing here is imported by it or by the tests of it.
"""
