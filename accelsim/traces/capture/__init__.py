"""Capture: record an attention trace while a real model runs."""
