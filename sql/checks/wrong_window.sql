-- wrong_window: instances whose numbers of genes and rows are not those of the genes in their window; none is a pass.
-- grain:   instance_id
-- reads:   run_genes, windows
-- params:
-- columns: instance_id bigint  the instance
--          n_genes     bigint  its genes, as planned
--          genes_there bigint  genes in its window
--          n_rows      bigint  its rows, as planned
--          rows_there  hugeint rows of these genes
select
    windows.instance_id,
    windows.n_genes,
    count(run_genes.gene_id) as genes_there,
    windows.n_rows,
    coalesce(sum(run_genes.n_rows), 0) as rows_there
from windows
left join run_genes on run_genes.gene_rank >= windows.first_rank and run_genes.gene_rank < windows.stop_rank
group by all
having
    count(run_genes.gene_id) != windows.n_genes
    or coalesce(sum(run_genes.n_rows), 0) != windows.n_rows
    or coalesce(sum(run_genes.n_training_rows), 0) != any_value(windows.n_training_rows)
order by windows.instance_id
