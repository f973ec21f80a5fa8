-- gene_marks: the values of a column for each gene; the column is opened as the label.
-- grain:   gene_id, mark
-- nulls:   gene_id, mark
-- reads:   source_rows (gene_id, label_text), one line per row of the dataset
-- params:
-- columns: gene_id varchar  the gene
--          mark    varchar  a value of the column
select distinct
    gene_id,
    label_text as mark
from source_rows
