"""Making a model smaller by storing its numbers in fewer bits, and measuring what that cost. One module a format."""
