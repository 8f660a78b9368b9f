"""The commands for people: one module a noun, each a click group or command that rmq.cli imports when it is asked for.

Reading order: exits (how a command ends), server (how it reaches one), views (what it shows), then any noun.
"""
