"""Trained models as files for other programs, and predictions from them."""
