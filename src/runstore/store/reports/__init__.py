"""Questions about past runs, answered from the projections: cost, tools, sessions, text.

An answer is as fresh as its projection: events of the last moments may be missing.
"""
