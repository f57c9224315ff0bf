"""Who is let in, what a request is called, and what is written down of it.

keys.py the API keys   names.py request ids   notes.py the log   given.py the start of a body, for --log-texts
guard.py joins them for the protocols
"""
