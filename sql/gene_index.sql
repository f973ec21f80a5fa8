-- gene_index: one row per gene that is not held out, in the seeded order in which instances are cut.
-- grain:   gene_id
-- reads:   ranked_genes
-- params:
-- columns: gene_id      varchar   the gene
--          fold_group   varchar   the unit of independence: the gene itself or a cluster of overlapping genes
--          n_rows       bigint    rows of the gene
--          label_counts bigint[]  rows of each class, in the order of the classes
--          gene_rank    bigint    0 .. number of genes - 1; genes of one group are neighbours
--          first_row    bigint    rows of all genes of lower rank
select
    gene_id,
    fold_group,
    n_rows,
    label_counts,
    rank as gene_rank,
    rows_before as first_row
from ranked_genes
where not is_holdout
order by gene_rank
