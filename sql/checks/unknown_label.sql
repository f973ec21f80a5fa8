-- unknown_label: labels that are not a class, null among them; none is a pass.
-- grain:   label_text
-- nulls:   label_text
-- reads:   label_counts
-- params:
-- columns: label_text varchar  the label as it is in the data
--          n_rows     hugeint  rows that carry it
--          first_file varchar  the first file with such a row
select
    label_text,
    sum(n_rows) as n_rows,
    min(first_file) as first_file
from label_counts
where label is null
group by all
order by label_text nulls first
