"""Flan 2022's evaluation suites: rows become questions, outputs become answers, answers become scores.

A module a suite, pure: `base` says what each gives, `parsing` finds answers, `run` asks a model and keeps what it said.
"""
