"""Exports of a front: tables, LaTeX and images."""
