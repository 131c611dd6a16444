"""Ramet on a GPU: what it reaches of what the device can do, and checks that need one."""
