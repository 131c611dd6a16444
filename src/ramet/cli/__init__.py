"""The command line: what users type and what they see. Everything else is below and knows nothing of it.

One file per command, under the name of the command; `app` puts them together. Invariant: results go to
stdout, everything else (progress, figures, errors) to stderr, and neither gets control codes unless it is
a terminal. A command raises `RametError`; `app` alone turns it into a line and an exit code.
"""
