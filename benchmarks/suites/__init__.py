"""One file a benchmark: `arguments(parser)`, `QUICK` and `run(bench, options)`; see `benchmarks.catalog`."""
