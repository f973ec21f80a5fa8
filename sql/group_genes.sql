-- group_genes: how many genes have rows in each row group; where they are few, a choice of genes reads few row groups.
-- grain:   file, row_group
-- reads:   source_rows (gene_id, file, row_number), row_groups
-- params:
-- columns: file      varchar path of the file
--          row_group bigint  number of the row group in the file
--          n_rows    bigint  rows in it
--          n_genes   bigint  genes with a row in it
select
    row_groups.file,
    row_groups.row_group,
    row_groups.n_rows,
    count(distinct source_rows.gene_id) as n_genes
from source_rows
asof join row_groups on source_rows.file = row_groups.file and source_rows.row_number >= row_groups.first_row
group by all
order by row_groups.file, row_groups.row_group
