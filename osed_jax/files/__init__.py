"""Whole files, sealed records and digests."""
