"""Capacity planning: what devices can do for a model and a load, by formulas, by simulation and by what was measured.

Nothing here opens a device, loads a model or is part of serving.
"""
