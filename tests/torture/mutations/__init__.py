"""Files that were damaged or made to do harm, each given to the command in a process of its own.

:mod:`kinds` says which files and how often, :mod:`edits` how bytes and JSON are changed,
:mod:`worker` forks a process for each case, :mod:`forked` is that process and its limits, and
:mod:`judgement` says whether it ended as it may.
"""
