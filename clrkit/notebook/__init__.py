"""What the notebooks show, and how they are executed."""
