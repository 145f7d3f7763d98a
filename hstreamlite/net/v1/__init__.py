"""What serves hstreamlite's own clients: the service of `hstreamlite.proto` over an open store."""
