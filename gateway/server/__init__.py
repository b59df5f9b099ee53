"""Bytes in: the strict HTTP/1.1 protocol, the workers that share the port, and the graceful drain.

serve      binds, starts the workers, and tells when they are ready
  workers    the supervisor: forks, restarts, forwards signals
    worker     one process: uvicorn on uvloop with our protocol, the admin listener, the drain
      listener   what the connections of one socket share
        protocol   one connection: reads heads and bodies, holds the deadlines
          head, authority, framing, chunked   what bytes are a request (no sockets in there)
          exchange   one request and its response, as ASGI
            response   what bytes are a response head
"""
