"""Physical indexes: where vectors lie and how they are searched."""
