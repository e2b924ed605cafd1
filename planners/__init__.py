"""Strategies that turn a fingerprint, a budget and a memory cost into a plan; one file per decision.

This package sees only ``autoseg.planning``, ``autoseg.values`` and ``autoseg.errors``; autoseg finds it by entry point.
"""
