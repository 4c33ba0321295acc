"""Models that judge in place of people: a proxy, kept apart from the labels, and believed only beside people's word."""
