"""From Parquet files to genes and folds."""
