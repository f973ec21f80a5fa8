-- trained_holdout: held-out genes in the window of an instance; none is a pass.
-- grain:   gene_id, instance_id
-- reads:   run_genes, windows
-- params:
-- columns: gene_id     varchar the gene
--          instance_id bigint  the instance
select
    run_genes.gene_id,
    windows.instance_id
from run_genes
join windows on run_genes.gene_rank >= windows.first_rank and run_genes.gene_rank < windows.stop_rank
where run_genes.is_holdout
order by run_genes.gene_id, windows.instance_id
