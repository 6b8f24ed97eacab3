"""What personas know from documents: files are parsed, cut, embedded, indexed, and found again with their place.

Knows neither Flask nor Celery. Files are read by untrusted parsers in limited processes of their own, never here.
"""
