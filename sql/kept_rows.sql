-- kept_rows: the columns of the dataset that predictions keep, of rows in the order asked for.
-- grain:   number
-- reads:   row_sources (number, file, row_number), source_columns (gene_id, position, file, row_number, column_0 ...)
-- params:
-- columns: number   bigint  the place of the row in the order, from 0
--          column_0 varchar first kept column, in its own type; column_1 and all others follow
select
    row_sources.number,
    source_columns.* exclude (gene_id, position, file, row_number)
from row_sources
join source_columns using (file, row_number)
order by row_sources.number
