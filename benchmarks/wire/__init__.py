"""What `benchmarks.server` measures: servers as processes of their own, and one client process."""
