-- annotation_spans: where a gene or a transcript lies that has lines of its own in several locations of one strand.
-- grain:   gene, transcript, chrom, strand, start
-- nulls:   gene, transcript
-- reads:   annotation_features
-- params:
-- columns: gene        varchar  gene; null for a transcript of GFF3, whose name is unique
--          transcript  varchar  transcript; null for a gene
--          chrom       varchar  contig
--          strand      varchar  + or -
--          start       bigint   first base of one location
--          stop        bigint   last base of it
--          n_spans     bigint   locations of this gene or transcript on this strand
with lines as (
    select
        case when kind = 'gene' or not is_gff3 then gene end as gene,
        case when kind = 'transcript' then id end as transcript,
        chrom,
        strand,
        start,
        stop
    from annotation_features
    where kind in ('gene', 'transcript') and strand in ('+', '-')
),
begins as (
    select
        *,
        start > coalesce(max(stop) over before, 0) as is_new
    from lines
    where gene is not null or transcript is not null
    window before as (
        partition by gene, transcript, chrom, strand
        order by start, stop
        rows between unbounded preceding and 1 preceding
    )
),
numbered as (
    select
        *,
        count_if(is_new) over (partition by gene, transcript, chrom, strand order by start, stop) as number
    from begins
),
spans as (
    select gene, transcript, chrom, strand, min(start) as start, max(stop) as stop
    from numbered
    group by gene, transcript, chrom, strand, number
)
select
    *,
    count(*) over (partition by gene, transcript, chrom, strand) as n_spans
from spans
