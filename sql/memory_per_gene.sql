-- memory_per_gene: what each gene costs in the memory of its instance: its training rows times bytes per row.
-- grain:   gene_id
-- reads:   run_genes
-- params:  $bytes_per_row  bytes that one more training row adds to the predicted peak
-- columns: gene_id         varchar  the gene
--          n_rows          bigint   its rows
--          n_training_rows bigint   those that are trained on
--          predicted_bytes bigint   its share of the peak
select
    gene_id,
    n_rows,
    n_training_rows,
    round(n_training_rows * $bytes_per_row::double)::bigint as predicted_bytes
from run_genes
order by predicted_bytes desc, gene_id
