-- misplaced_gene: genes whose rank, first row or rows per class contradict the genes before them; none is a pass.
-- grain:   number
-- reads:   run_genes
-- params:  $n_genes  genes that are not held out; these come first
-- columns: number      bigint  number of the gene in the file, by rank
--          gene_id     varchar the gene
--          gene_rank   bigint  its rank
--          first_row   bigint  where its rows are said to begin
--          rows_before hugeint rows of all genes before it
with numbered as (
    select
        row_number() over (order by gene_rank, gene_id) - 1 as number,
        gene_id,
        gene_rank,
        first_row,
        coalesce(
            sum(n_rows) over (order by gene_rank, gene_id rows between unbounded preceding and 1 preceding), 0
        ) as rows_before,
        n_rows,
        n_training_rows,
        label_counts,
        is_holdout
    from run_genes
)
select
    number,
    gene_id,
    gene_rank,
    first_row,
    rows_before
from numbered
where
    number != gene_rank
    or first_row != rows_before
    or n_rows < 1
    or n_training_rows > n_rows
    or list_sum(label_counts) != n_rows
    or is_holdout != (number >= $n_genes::bigint)
order by number
