-- leakage_rows: where the rows of whole genes lie that a few row groups hold: runs of neighbouring rows of one gene.
-- grain:   file, row_group, first_row
-- reads:   source_rows (gene_id, file, row_number), gene_index, row_groups
-- params:  $seed       any integer; it chooses the row groups
--          $rows_read  rows of the row groups to read, up to the end of the last one; all where null
--          $n_first    genes of the lowest ranks to take at most; all where null
-- columns: file       varchar  path of the file
--          row_group  bigint   number of the row group in the file
--          first_row  bigint   first row of the run, counted in the row group
--          n_rows     bigint   rows of the run
--          gene_id    varchar  the gene
--          gene_rank  bigint   its rank in the seeded order
--          fold_group varchar  its fold group
with numbered as (
    select
        file,
        row_group,
        first_row,
        n_rows,
        dense_rank() over (order by file) as file_number
    from row_groups
),
drawn as (
    select
        file,
        row_group,
        first_row,
        n_rows,
        sum(n_rows) over (
            order by md5(concat_ws(':', $seed, 'leakage', file_number, row_group)), file_number, row_group
        ) - n_rows as rows_before
    from numbered
),
picked as (
    select
        file,
        row_group,
        first_row,
        n_rows
    from drawn
    where $rows_read::bigint is null or rows_before < $rows_read::bigint
),
first_genes as (
    select
        gene_id,
        gene_rank,
        fold_group,
        n_rows
    from gene_index
    where $n_first::bigint is null or gene_rank < $n_first::bigint
),
grouped as (
    select
        picked.file,
        picked.row_group,
        source_rows.row_number - picked.first_row as row_in_group,
        first_genes.gene_id,
        first_genes.gene_rank,
        first_genes.fold_group,
        first_genes.n_rows as gene_rows
    from source_rows
    join first_genes using (gene_id)
    join picked
        on source_rows.file = picked.file
        and source_rows.row_number >= picked.first_row
        and source_rows.row_number < picked.first_row + picked.n_rows
),
whole as (
    select gene_rank
    from grouped
    group by gene_rank, gene_rows
    having count(*) = gene_rows
),
islands as (
    select
        file,
        row_group,
        row_in_group,
        gene_id,
        gene_rank,
        fold_group,
        row_in_group - row_number() over (partition by file, row_group, gene_rank order by row_in_group) as island
    from grouped
    semi join whole using (gene_rank)
)
select
    file,
    row_group,
    min(row_in_group) as first_row,
    count(*) as n_rows,
    gene_id,
    gene_rank,
    fold_group
from islands
group by file, row_group, gene_id, gene_rank, fold_group, island
order by file, row_group, first_row
