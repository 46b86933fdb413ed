"""Where memories live between requests: in this process, in a directory, in Redis; nothing here knows of networks."""
