"""Bundles inside other people's libraries: one module for each, which needs that library alone.

Importing this package loads nothing; importing a module whose library is missing is a
:class:`~runtimes.errors.MissingError` that names the extra to install.
"""
