-- instance_genes: which genes each instance is trained on.
-- grain:   instance_id, gene_id
-- reads:   instances, run_genes
-- params:
-- columns: instance_id bigint   the instance
--          gene_id     varchar  the gene
select
    instances.instance_id,
    run_genes.gene_id
from instances
join run_genes on run_genes.gene_rank >= instances.first_rank and run_genes.gene_rank < instances.stop_rank
where instances.status <> 'split'
order by instances.instance_id, run_genes.gene_rank
