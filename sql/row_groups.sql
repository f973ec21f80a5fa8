-- row_groups: the row groups of all Parquet files with their place in the file.
-- grain:   file, row_group
-- reads:   the Parquet footers
-- params:  $files  paths, glob characters escaped
-- columns: file      varchar  path of the file
--          row_group bigint   number of the row group in the file, from 0
--          first_row bigint   rows of the file before it
--          n_rows    bigint   rows in it
with groups as (
    select distinct
        file_name as file,
        row_group_id as row_group,
        row_group_num_rows as n_rows
    from parquet_metadata($files)
)
select
    file,
    row_group,
    (sum(n_rows) over (partition by file order by row_group) - n_rows)::bigint as first_row,
    n_rows
from groups
where n_rows > 0
order by file, row_group
