"""What the notebooks show (lab, panels, playgrounds, illustrations), and how to run them headless."""
