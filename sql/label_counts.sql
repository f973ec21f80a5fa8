-- label_counts: rows of every gene by label, from one pass over gene, label and group.
-- grain:   gene_id, fold_group, label_text
-- nulls:   gene_id, fold_group, label_text
-- reads:   source_rows (gene_id, fold_group, label_text, file), one line per row of the dataset
-- params:  $labels  texts of the labels in the order of the classes
-- columns: gene_id    varchar  the gene, null where the data say so
--          fold_group varchar  the unit of independence: a cluster of overlapping genes, or the gene itself
--          label_text varchar  the label as it is in the data
--          label      integer  its index among the classes, null where it is none of them
--          n_rows     bigint   rows
--          first_file varchar  the first file, by name, that holds such a row
select
    gene_id,
    fold_group,
    label_text,
    list_position($labels, label_text) - 1 as label,
    count(*) as n_rows,
    min(file) as first_file
from source_rows
group by all
