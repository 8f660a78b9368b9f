"""The front ends: wire <-> broker verbs."""
