-- bad_weight: the first row of each file whose weight cannot be one: null, NaN, infinite or negative; none is a pass.
-- grain:   file
-- reads:   source_rows (weight, file, row_number)
-- params:
-- columns: file       varchar path of the file
--          row_number bigint  index of the row in the file, from 0
--          weight     varchar its weight, as text
--          n_rows     bigint  such rows in the file
select
    file,
    min(row_number) as row_number,
    arg_min(coalesce(weight::varchar, 'null'), row_number) as weight,
    count(*) as n_rows
from source_rows
-- coalesce, because DuckDB would answer isfinite alone by the statistics of a file, which leave NaN out
where not coalesce(isfinite(weight) and weight >= 0, false)
group by file
order by file
