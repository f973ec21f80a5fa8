-- clustered_genes: where the rows of each gene begin when a dataset is sorted by gene.
-- grain:   gene_id
-- reads:   label_counts (gene_id, n_rows)
-- params:
-- columns: gene_id   varchar the gene
--          n_rows    bigint  its rows
--          first_row bigint  rows of all genes before it, in the order of their names
with genes as (
    select
        gene_id,
        sum(n_rows)::bigint as n_rows
    from label_counts
    group by all
)
select
    gene_id,
    n_rows,
    (sum(n_rows) over (order by gene_id) - n_rows)::bigint as first_row
from genes
order by gene_id
