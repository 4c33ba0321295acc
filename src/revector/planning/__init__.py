"""Owns what a migration will take: the plan, what it measures and reckons, prices and capacity."""
