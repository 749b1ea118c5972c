"""Benchmarks: every kernel beside what a user would pick instead."""
