-- null_group: genes without a fold group; none is a pass.
-- grain:   gene_id
-- nulls:   gene_id
-- reads:   label_counts
-- params:
-- columns: gene_id    varchar  the gene
--          first_file varchar  the file with such rows
select
    gene_id,
    min(first_file) as first_file
from label_counts
where fold_group is null or fold_group = ''
group by all
order by gene_id
