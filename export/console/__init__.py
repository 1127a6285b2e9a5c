"""The edges of a command: arguments, standard streams, progress, exit codes."""
