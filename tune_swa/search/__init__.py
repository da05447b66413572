"""Decide what is tried, stopped, shared and confirmed, and record it. No Ray, no torch."""
