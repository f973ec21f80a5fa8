-- gene_summary: the gene index in one line.
-- grain:   n_genes
-- reads:   gene_index
-- params:
-- columns: n_genes           bigint     genes
--          n_groups          bigint     fold groups
--          n_rows            hugeint    rows
--          largest_gene_rows bigint     rows of the largest gene
--          label_counts      hugeint[]  rows of each class
with labels as (
    select
        unnest(label_counts) as n_rows,
        generate_subscripts(label_counts, 1) as label
    from gene_index
),
totals as (
    select
        label,
        sum(n_rows) as n_rows
    from labels
    group by all
)
select
    count(*) as n_genes,
    count(distinct fold_group) as n_groups,
    sum(n_rows) as n_rows,
    max(n_rows) as largest_gene_rows,
    (select list(n_rows order by label) from totals) as label_counts
from gene_index
