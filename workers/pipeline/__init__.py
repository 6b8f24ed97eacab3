"""A model cut into segments, each on a device of its own, working at once on inputs that follow each other.

The first stage (head.py) claims jobs as every worker does; the others (stage.py) know no job, only the stage before
them. They meet at Unix sockets in the data directory and pass tensors on (docs/decisions/0012-inference.md).
"""
