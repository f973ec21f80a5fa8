-- tables: what every table of the catalogue holds.
select
    table_name,
    comment
from duckdb_tables()
order by table_name
