-- catalogue_folds: the fold of every gene that is not held out.
-- grain:   gene_id
-- reads:   gene_index
-- params:
-- columns: gene_id    varchar  the gene
--          fold_group varchar  its fold group
--          fold       bigint   its fold
select
    gene_id,
    fold_group,
    fold
from gene_index
where not is_holdout
order by gene_rank
