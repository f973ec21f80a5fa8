-- row_index: where the rows of each selected gene lie: stretches of neighbouring rows of one gene in one row group.
-- grain:   file, row_group, first_row
-- reads:   source_rows (gene_id, file, row_number), run_genes, row_groups
-- params:
-- columns: file      varchar  path of the file
--          row_group bigint   number of the row group in the file
--          first_row bigint   first row of the stretch, counted in the row group
--          n_rows    bigint   rows of the stretch
--          gene_rank bigint   the gene
with gene_rows as (
    select
        source_rows.file,
        source_rows.row_number,
        run_genes.gene_rank
    from source_rows
    join run_genes using (gene_id)
),
grouped as (
    select
        gene_rows.file,
        row_groups.row_group,
        gene_rows.row_number - row_groups.first_row as row_in_group,
        gene_rows.gene_rank
    from gene_rows
    asof join row_groups on gene_rows.file = row_groups.file and gene_rows.row_number >= row_groups.first_row
),
islands as (
    select
        file,
        row_group,
        row_in_group,
        gene_rank,
        row_in_group - row_number() over (partition by file, row_group, gene_rank order by row_in_group) as island
    from grouped
)
select
    file,
    row_group,
    min(row_in_group) as first_row,
    count(*) as n_rows,
    gene_rank
from islands
group by file, row_group, gene_rank, island
order by file, row_group, first_row
