"""REST: the calls of the protocol as JSON over HTTP, and what users of HTTP need beside them.

Paths come from the HTTP rules of the services that a server serves: descriptors are walked once,
and each rule becomes a route to the same servicer object that gRPC calls. No method has code of its
own here.
"""
