"""From Parquet files to the rows of each segment on disk."""
