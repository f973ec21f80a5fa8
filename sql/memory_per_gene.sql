-- memory_per_gene: what each gene costs in the memory of its instance: its rows times bytes per row.
-- grain:   gene_id
-- reads:   gene_index
-- params:  $bytes_per_row  bytes that one more row adds to the predicted peak
-- columns: gene_id         varchar  the gene
--          n_rows          bigint   its rows
--          predicted_bytes bigint   its share of the peak
select
    gene_id,
    n_rows,
    round(n_rows * $bytes_per_row::double)::bigint as predicted_bytes
from gene_index
order by predicted_bytes desc, gene_id
