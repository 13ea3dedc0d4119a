"""Accelerators, one a file or folder, wired from :mod:`accelsim.hardware.blocks`."""
