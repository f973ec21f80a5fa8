-- catalogue_folds: the fold of every gene that is not held out.
-- grain:   gene_id
-- reads:   run_genes
-- params:  $n_pilot_genes  genes of the lowest ranks, which chose the features
-- columns: gene_id    varchar  the gene
--          fold_group varchar  its fold group
--          fold       bigint   its fold
--          is_pilot   boolean  whether it chose the features, so that it is trained on and never scored
select
    gene_id,
    fold_group,
    fold,
    gene_rank < $n_pilot_genes as is_pilot
from run_genes
where not is_holdout
order by gene_rank
