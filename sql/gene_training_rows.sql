-- gene_training_rows: rows of each gene that training uses where easy negatives are sampled.
-- grain:   gene_rank
-- reads:   row_uses, gene_index
-- params:
-- columns: gene_rank       bigint  the gene
--          n_training_rows bigint  its rows that are used
select
    gene_index.gene_rank,
    count(*) filter (where row_uses.use > 0) as n_training_rows
from row_uses
join gene_index using (gene_id)
group by all
order by gene_index.gene_rank
