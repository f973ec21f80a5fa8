-- repeated_rows: easy negatives that agree in gene, position and score with another one, numbered in canonical order.
-- The canonical order of the rows of a gene is by position, score and content; rows that agree in all three are
-- interchangeable. The first of rows that agree is not listed, and no other row is: they have no number.
-- grain:   file, row_number
-- reads:   source_rows (gene_id, label_text, position, site_score, content, file, row_number), sampling
-- params:
-- columns: file       varchar  path of the file
--          row_number bigint   index of the row in the file, from 0
--          number     bigint   rows before it that agree with it, from 1
with easy as (
    select
        source_rows.gene_id,
        source_rows.position,
        source_rows.site_score,
        source_rows.file,
        source_rows.row_number
    from source_rows
    cross join sampling
    where source_rows.label_text = sampling.background and source_rows.site_score < sampling.easy_below
),
alike as (
    select
        gene_id,
        position,
        site_score
    from easy
    group by all
    having count(*) > 1
),
repeated as (
    select
        easy.gene_id,
        easy.position,
        easy.site_score,
        easy.file,
        easy.row_number
    from easy
    join alike
        on alike.gene_id = easy.gene_id
        and alike.position is not distinct from easy.position
        and alike.site_score = easy.site_score
),
numbered as (
    select
        repeated.file,
        repeated.row_number,
        row_number() over (
            partition by repeated.gene_id, repeated.position, repeated.site_score
            order by source_rows.content, repeated.file, repeated.row_number
        ) - 1 as number
    from repeated
    join source_rows using (file, row_number)
)
select
    file,
    row_number,
    number
from numbered
where number > 0
