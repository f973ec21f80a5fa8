-- row_places: the place of every row when a dataset is sorted by gene and position.
-- grain:   file_number, row_number
-- reads:   source_rows (gene_id, position, file, row_number), clustered_genes
-- params:  $files  paths of the files, in their order
-- columns: file_number bigint place of the file among $files, from 0
--          row_number  bigint place of the row in the file, from 0
--          place       bigint place of the row in the sorted dataset; rows that tie keep the order of files and rows
with files as (
    select
        unnest($files::varchar[]) as file,
        unnest(range(len($files)))::bigint as file_number
),
numbered as (
    select
        source_rows.gene_id,
        source_rows.position,
        files.file_number,
        source_rows.row_number
    from source_rows
    join files using (file)
)
select
    numbered.file_number,
    numbered.row_number,
    clustered_genes.first_row + row_number() over (
        partition by numbered.gene_id
        order by numbered.position nulls first, numbered.file_number, numbered.row_number
    ) - 1 as place
from numbered
join clustered_genes using (gene_id)
order by numbered.file_number, numbered.row_number
