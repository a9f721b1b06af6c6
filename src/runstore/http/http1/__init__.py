"""HTTP/1.1 on a socket, with limits: below the API, and without knowledge of it."""
