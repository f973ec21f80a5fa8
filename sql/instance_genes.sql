-- instance_genes: which genes each instance is trained on.
-- grain:   instance_id, gene_id
-- reads:   instances, gene_index
-- params:
-- columns: instance_id bigint   the instance
--          gene_id     varchar  the gene
select
    instances.instance_id,
    gene_index.gene_id
from instances
join gene_index on gene_index.gene_rank >= instances.first_rank and gene_index.gene_rank < instances.stop_rank
where instances.status <> 'split'
order by instances.instance_id, gene_index.gene_rank
