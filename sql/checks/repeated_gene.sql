-- repeated_gene: genes that are more than once among the genes of a run; none is a pass.
-- grain:   gene_id
-- reads:   run_genes
-- params:
-- columns: gene_id varchar the gene
--          n_times bigint  how often
select
    gene_id,
    count(*) as n_times
from run_genes
group by all
having count(*) > 1
order by gene_id
