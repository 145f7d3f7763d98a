"""Who may do what: callers are known by a certificate or a token, and have what was granted them.

Without tokens and grants everybody may do everything. With tokens a caller has to be known; with
one grant or more, each role may do what it was granted and nothing else.
"""
