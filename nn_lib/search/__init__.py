"""Searches: many training runs, each in its own process and work directory, killed and resumed."""
