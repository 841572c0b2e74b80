"""SimCLRv2, end to end. The modules are listed in README.md; this import loads none of them."""

__version__ = "0.1.0"
