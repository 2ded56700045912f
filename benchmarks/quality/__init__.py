"""How good what a system finds is, and after how much training: runs on tables, kept on disk, summed up."""
