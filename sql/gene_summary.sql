-- gene_summary: the gene index in one line.
-- grain:   n_genes
-- reads:   gene_index
-- params:
-- columns: n_genes          bigint     genes
--          n_groups         bigint     fold groups
--          n_rows           hugeint    rows
--          label_counts     hugeint[]  rows of each class
--          effective_groups double     Kish's effective number of fold groups by rows, (sum n)^2 / sum n^2
--          largest_group    varchar    fold group with the most rows, the first by name
--          largest_share    double     its share of the rows
with labels as (
    select
        unnest(label_counts) as n_rows,
        generate_subscripts(label_counts, 1) as label
    from gene_index
),
groups as (
    select
        fold_group,
        sum(n_rows)::double as n_rows
    from gene_index
    group by fold_group
),
kish as (
    select
        sum(n_rows) * sum(n_rows) / sum(n_rows * n_rows) as effective_groups,
        min_by(fold_group, (-n_rows, fold_group)) as largest_group,
        max(n_rows) / sum(n_rows) as largest_share
    from groups
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
    (select list(n_rows order by label) from totals) as label_counts,
    (select effective_groups from kish) as effective_groups,
    (select largest_group from kish) as largest_group,
    (select largest_share from kish) as largest_share
from gene_index
