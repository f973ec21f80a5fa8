-- uncovered_gene: genes that are neither held out nor in a window; none is a pass.
-- grain:   gene_id
-- reads:   run_genes, windows
-- params:
-- columns: gene_id   varchar the gene
--          gene_rank bigint  its rank
select
    run_genes.gene_id,
    run_genes.gene_rank
from run_genes
left join windows on run_genes.gene_rank >= windows.first_rank and run_genes.gene_rank < windows.stop_rank
where windows.instance_id is null and not run_genes.is_holdout
order by run_genes.gene_rank
