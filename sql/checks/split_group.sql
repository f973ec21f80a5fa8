-- split_group: fold groups in several folds, or partly held out; none is a pass.
-- grain:   fold_group
-- reads:   run_genes
-- params:
-- columns: fold_group varchar the group
--          n_folds    bigint  its folds
--          n_marks    bigint  2 where some of its genes are held out and some are not
select
    fold_group,
    count(distinct fold) as n_folds,
    count(distinct is_holdout) as n_marks
from run_genes
group by all
having count(distinct fold) > 1 or count(distinct is_holdout) > 1
order by fold_group
