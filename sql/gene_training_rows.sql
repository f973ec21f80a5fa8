-- gene_training_rows: rows of each gene that training uses where easy negatives are sampled, by the rule of row_uses.
-- grain:   gene_rank
-- reads:   source_rows (gene_id, label_text, position, site_score), gene_index, sampling
-- params:
-- columns: gene_rank       bigint  the gene
--          n_training_rows bigint  its rows that are used
select
    gene_index.gene_rank,
    count(*) filter (
        where source_rows.label_text <> sampling.background
        or source_rows.site_score is null
        or source_rows.site_score >= sampling.easy_below
        or md5_number_lower(
            concat_ws(':', sampling.seed, source_rows.gene_id, source_rows.position, source_rows.site_score)
        ) < sampling.share * 18446744073709551616.0
    ) as n_training_rows
from source_rows
join gene_index using (gene_id)
cross join sampling
group by all
order by gene_index.gene_rank
