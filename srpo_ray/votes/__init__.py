"""Blind votes of people on pairs of images: a local page, and statistics that compare votes with proxies."""
