-- annotation_exons: the exons and their pieces (CDS, UTR, codons), each with its transcript and its gene.
-- grain:   line, transcript
-- reads:   annotation_features, annotation_ancestors
-- params:
-- columns: line        bigint   number of the line in the file
--          gene        varchar  gene, as the annotation names it
--          transcript  varchar  transcript, empty where none is named
--          chrom       varchar  contig
--          strand      varchar  + or -
--          kind        varchar  exon, CDS or UTR
--          start       bigint   first base, from 1
--          stop        bigint   last base
--          part        varchar  number of the part, of a feature in several parts, or null
--          is_trans    boolean  whether it is spliced in trans
with lines as (
    select distinct
        line,
        chrom,
        strand,
        kind,
        start,
        stop,
        part,
        is_trans,
        is_gff3,
        gene,
        unnest(parents) as transcript
    from annotation_features
    where kind not in ('gene', 'transcript') and strand in ('+', '-')
),
named as (
    select
        lines.* exclude (gene),
        case
            when lines.is_gff3 then coalesce(annotation_ancestors.gene, lines.gene, annotation_ancestors.ancestor)
            else lines.gene
        end as gene
    from lines
    left join annotation_ancestors using (transcript)
)
select line, gene, transcript, chrom, strand, kind, start, stop, part, is_trans
from named
where gene is not null
