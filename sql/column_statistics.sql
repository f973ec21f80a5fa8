-- column_statistics: smallest and largest value and number of nulls of each column, from the Parquet footers alone.
-- grain:   name
-- reads:   the Parquet footers
-- params:  $files  paths, glob characters escaped
-- columns: name     varchar  the column
--          is_known boolean  whether every row group carries the statistics
--          n_nulls  bigint   nulls, of the row groups that say so
--          low      double   smallest value, null where no row group gives a number
--          high     double   largest value, likewise
select
    path_in_schema as name,
    bool_and(
        stats_null_count is not null
        and (stats_min_value is not null or stats_null_count = num_values)
    ) as is_known,
    coalesce(sum(stats_null_count), 0)::bigint as n_nulls,
    min(try_cast(stats_min_value as double)) as low,
    max(try_cast(stats_max_value as double)) as high
from parquet_metadata($files)
where row_group_num_rows > 0
group by all
order by name
