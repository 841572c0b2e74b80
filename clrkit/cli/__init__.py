"""The command line: `python -m clrkit COMMAND`."""
