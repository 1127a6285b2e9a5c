"""Programs of other people's libraries, each run in an environment of its own.

``run_NAME BUNDLE REQUEST ANSWER``: the request is ``{"texts": [...], "prefix": "...", "inputs":
{name: number}}``, the answer ``{"version": "...", "vectors": [[...]]}``. They import nothing of
the project, which is not installed where they run.
"""
