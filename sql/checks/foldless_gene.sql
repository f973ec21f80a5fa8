-- foldless_gene: genes without one of the folds of the run, and held-out genes with one; none is a pass.
-- grain:   gene_rank
-- reads:   run_genes
-- params:  $n_folds  number of folds
-- columns: gene_rank  bigint  rank of the gene
--          gene_id    varchar the gene
--          fold       bigint  its fold
--          is_holdout boolean whether it is held out
select
    gene_rank,
    gene_id,
    fold,
    is_holdout
from run_genes
where
    case
        when is_holdout then fold is not null
        else fold is null or fold < 0 or fold >= $n_folds::bigint
    end
order by gene_rank
