-- null_gene: rows without a gene; none is a pass.
-- grain:   first_file
-- reads:   label_counts
-- params:
-- columns: first_file varchar  the file with such rows
--          n_rows     hugeint  how many of them
select
    first_file,
    sum(n_rows) as n_rows
from label_counts
where gene_id is null or gene_id = ''
group by all
order by first_file
