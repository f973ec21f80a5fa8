-- genes: the gene index with the fold of each gene, then the held-out genes.
-- With n_training_rows beside, it is the file genes.parquet of a run.
-- grain:   gene_id
-- reads:   gene_index, gene_folds, holdout_genes
-- params:
-- columns: gene_id      varchar   the gene
--          fold_group   varchar   its fold group
--          n_rows       bigint    its rows
--          label_counts bigint[]  rows of each class
--          gene_rank    bigint    its rank in the seeded order; held-out genes come last
--          first_row    bigint    rows of all genes of lower rank
--          fold         bigint    its fold, null where it is held out
--          is_holdout   boolean   whether it is kept from all training
select
    gene_index.gene_id,
    gene_index.fold_group,
    gene_index.n_rows,
    gene_index.label_counts,
    gene_index.gene_rank,
    gene_index.first_row,
    gene_folds.fold,
    false as is_holdout
from gene_index
join gene_folds using (gene_id)
union all
select
    gene_id,
    fold_group,
    n_rows,
    label_counts,
    gene_rank,
    first_row,
    null as fold,
    true as is_holdout
from holdout_genes
order by gene_rank
