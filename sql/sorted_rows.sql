-- sorted_rows: all rows and columns of a dataset, by gene and position; ties keep the order of files and rows.
-- grain:   file_number, row_number
-- reads:   source_columns (gene_id, position, file, row_number, column_0 and on), one line per row of the dataset
-- params:  $files  paths of the files, in their order
-- columns: file_number bigint  index of the file among $files, from 0
--          row_number  bigint  index of the row in the file, from 0
--          column_0    varchar first column of the dataset, in its own type; column_1 and all others follow
with files as (
    select
        unnest($files::varchar[]) as file,
        unnest(range(len($files)))::bigint as file_number
)
select
    files.file_number,
    source_columns.* exclude (gene_id, position, file)
from source_columns
join files using (file)
order by
    source_columns.gene_id,
    source_columns.position nulls first,
    files.file_number,
    source_columns.row_number
