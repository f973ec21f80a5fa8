-- fold_summary: what each fold holds.
-- grain:   fold, label
-- reads:   gene_index, gene_folds
-- params:
-- columns: fold     bigint   the fold
--          label    bigint   the class, by index
--          n_groups bigint   fold groups in the fold
--          n_genes  bigint   genes in the fold
--          n_rows   hugeint  rows of the class in the fold
with counts as (
    select
        gene_folds.fold,
        gene_index.gene_id,
        gene_index.fold_group,
        unnest(gene_index.label_counts) as n_rows,
        generate_subscripts(gene_index.label_counts, 1) - 1 as label
    from gene_index
    join gene_folds using (gene_id)
)
select
    fold,
    label,
    count(distinct fold_group) as n_groups,
    count(distinct gene_id) as n_genes,
    sum(n_rows) as n_rows
from counts
group by all
order by fold, label
