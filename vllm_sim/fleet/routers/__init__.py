"""The routers, one idea a file."""
