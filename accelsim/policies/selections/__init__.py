"""Rules that select tokens: ``selection: {kind: NAME}`` of a policy file is ``NAME.py`` here.

Each file holds a whole policy: the paper, the settings that a YAML file may give, what it asks of
the hardware, and the rule at work. It is imported when a policy names it.
"""
