-- coverage: how much of the dataset was trained, counted from finished instances.
-- grain:   n_genes_dataset
-- reads:   run_genes, instances, instance_genes
-- params:  $n_genes_dataset  genes of the dataset before any sampling
-- columns: n_genes_dataset   bigint   genes of the dataset
--          n_genes           bigint   genes selected and not held out
--          n_genes_trained   bigint   of these in a finished instance
--          n_rows            hugeint  rows of the selected genes
--          n_rows_trained    hugeint  rows of the trained ones
--          coverage_fraction double   n_genes_trained / n_genes
with trained as (
    select distinct instance_genes.gene_id
    from instance_genes
    join instances using (instance_id)
    where instances.status = 'done'
)
select
    $n_genes_dataset::bigint as n_genes_dataset,
    count(*) as n_genes,
    count(trained.gene_id) as n_genes_trained,
    sum(run_genes.n_rows) as n_rows,
    coalesce(sum(run_genes.n_rows) filter (where trained.gene_id is not null), 0) as n_rows_trained,
    count(trained.gene_id) / count(*) as coverage_fraction
from run_genes
left join trained using (gene_id)
where not run_genes.is_holdout
