"""In parallel: the Ray ActorPool of download-and-chunk workers. The only place that imports Ray."""
