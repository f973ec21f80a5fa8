-- catalogue_genes: one row per gene for the catalogue; rows of each class still in one list.
-- grain:   gene_id
-- reads:   run_genes, instance_genes
-- params:  $n_pilot_genes  genes of the lowest ranks, which chose the features
-- columns: gene_id      varchar   the gene
--          fold_group   varchar   its fold group
--          n_rows       bigint    its rows
--          label_counts bigint[]  rows of each class
--          fold         bigint    its fold, null where it is held out
--          is_holdout   boolean   whether it is kept from all training
--          is_pilot     boolean   whether it chose the features, so that it is trained on and never scored
--          n_instances  bigint    instances that train on it
with members as (
    select
        gene_id,
        count(*) as n_instances
    from instance_genes
    group by all
)
select
    run_genes.gene_id,
    run_genes.fold_group,
    run_genes.n_rows,
    run_genes.label_counts,
    run_genes.fold,
    run_genes.is_holdout,
    run_genes.gene_rank < $n_pilot_genes as is_pilot,
    coalesce(members.n_instances, 0) as n_instances
from run_genes
left join members using (gene_id)
order by run_genes.gene_rank
