"""clrkit: SimCLRv2, end to end. The public modules are documented in README.md; this import loads nothing else."""

__version__ = "0.1.0"
