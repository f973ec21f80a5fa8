-- folds: groups, genes and rows of each fold.
select
    fold,
    count(distinct fold_group) as n_groups,
    count(*) as n_genes,
    sum(n_rows) as n_rows
from genes
group by all
order by fold
