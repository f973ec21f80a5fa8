-- holdout_genes: one row per held-out gene; their ranks and rows follow those of the genes that are trained on.
-- grain:   gene_id
-- reads:   ranked_genes, gene_index
-- params:
-- columns: gene_id      varchar   the gene
--          fold_group   varchar   the unit of independence: the gene itself or a cluster of overlapping genes
--          n_rows       bigint    rows of the gene
--          label_counts bigint[]  rows of each class, in the order of the classes
--          gene_rank    bigint    number of genes in gene_index and on; genes of one group are neighbours
--          first_row    bigint    rows of gene_index and of all held-out genes of lower rank
with trained as (
    select
        count(*) as n_genes,
        coalesce(sum(n_rows), 0) as n_rows
    from gene_index
)
select
    ranked_genes.gene_id,
    ranked_genes.fold_group,
    ranked_genes.n_rows,
    ranked_genes.label_counts,
    trained.n_genes + ranked_genes.rank as gene_rank,
    (trained.n_rows + ranked_genes.rows_before)::bigint as first_row
from ranked_genes
cross join trained
where ranked_genes.is_holdout
order by gene_rank
