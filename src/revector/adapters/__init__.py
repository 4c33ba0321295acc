"""Doors for applications and frameworks that read and write through others' interfaces."""
