"""Building twice under different conditions, and the causes of what differs."""
