-- file_row_uses: what each row of one file is in training, in the order of the file.
-- grain:   row_number
-- reads:   row_uses
-- params:  $file  path of the file
-- columns: row_number bigint   index of the row in the file, from 0
--          use        utinyint as in row_uses
select
    row_number,
    use
from row_uses
where file = $file
order by row_number
