"""Reads run folders: statistics, tables, figures and the page."""
