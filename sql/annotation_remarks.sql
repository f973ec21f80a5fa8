-- annotation_remarks: genes that a reader of the annotation should look at.
-- grain:   remark, gene
-- reads:   annotation_blocks, annotation_loci, annotation_genes
-- params:
-- columns: remark  varchar  in_parts (no intron between them), several_locations (each is a gene) or mixed (isoforms)
--          gene    varchar  gene, as the annotation names it
with in_parts as (
    select distinct gene
    from annotation_blocks
    where piece > 1
),
several as (
    select gene
    from annotation_loci
    group by gene
    having count(distinct gene_id) > 1
)
select 'in_parts' as remark, gene from in_parts
union all
select 'several_locations', gene from several where gene not in (from in_parts)
union all
select distinct 'mixed', annotation_loci.gene
from annotation_loci
join annotation_genes using (gene_id)
where annotation_genes.is_mixed
order by remark, gene
