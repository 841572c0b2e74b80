"""Run or load: content-addressed, atomic, resumable runs."""
