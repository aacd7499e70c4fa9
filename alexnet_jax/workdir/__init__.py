"""What a run keeps on disk: checkpoints, the lock and metrics.jsonl."""
