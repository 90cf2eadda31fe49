"""fsspec's file systems for remote sources, but an answer to a range must say that it is of that range.

Sources state no checksum of a range. A cache, proxy or server that answers with as many bytes of another place would
be believed by whoever counts bytes alone, and where counts are stored without compression nothing later could tell.
"""
