"""Where two trainings, or two losses, stop being the same: recordings, and what they are compared with."""
