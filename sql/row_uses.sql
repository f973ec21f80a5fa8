-- row_uses: what each row is in training: sites and hard negatives always, easy negatives at random.
-- grain:   file, row_number
-- reads:   source_rows (gene_id, label_text, position, site_score, file, row_number), sampling, repeated_rows
-- params:
-- columns: file       varchar  path of the file
--          row_number bigint   index of the row in the file, from 0
--          gene_id    varchar  the gene
--          use        utinyint 0 left out; 1 used; 2 used, weighing as 1 / share easy negatives
select
    source_rows.file,
    source_rows.row_number,
    source_rows.gene_id,
    case
        when source_rows.label_text <> sampling.background then 1
        when source_rows.site_score is null or source_rows.site_score >= sampling.easy_below then 1
        when md5_number_lower(
            concat_ws(
                ':',
                sampling.seed,
                source_rows.gene_id,
                source_rows.position,
                source_rows.site_score,
                repeated_rows.number
            )
        ) < sampling.share * 18446744073709551616.0 then 2
        else 0
    end::utinyint as use
from source_rows
cross join sampling
left join repeated_rows using (file, row_number)
