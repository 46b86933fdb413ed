"""`maskbank serve`: the function without Docker and Nuclio, for a CVAT that takes it for Nuclio.

One process speaks HTTP. It hands each request to a worker process that is idle, as Nuclio does. (Workers that share a
port, as ASGI servers offer them, do not: a busy one often takes the connection that an idle one could answer.)
"""
