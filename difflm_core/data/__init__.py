"""Readers, schema and splits."""
