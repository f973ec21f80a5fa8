-- annotation_loci: the gene that each piece of a transcript becomes: one for each location where a gene id is found.
-- grain:   gene, transcript, chrom, strand, piece
-- reads:   annotation_blocks, annotation_features, left_out_introns
-- params:  $longest_gap  bases between transcripts of one gene that share none
-- columns: gene        varchar  gene, as the annotation names it
--          transcript  varchar  transcript
--          chrom       varchar  contig
--          strand      varchar  + or -
--          piece       bigint   piece of the transcript
--          gene_id     varchar  the gene's id, with its location where there are several
with pieces as (
    select gene, transcript, chrom, strand, piece, min(start) as start, max(stop) as stop
    from annotation_blocks
    group by all
),
broken as (
    select distinct annotation_blocks.gene, annotation_blocks.chrom, annotation_blocks.strand
    from annotation_blocks
    join left_out_introns
        on left_out_introns.chrom = annotation_blocks.chrom and left_out_introns.strand = annotation_blocks.strand
        and left_out_introns.right_start = annotation_blocks.start
),
spans as (
    select gene, transcript, chrom, strand, piece, start, stop from pieces
    union all
    -- the line of a gene holds together transcripts that share no base
    select gene, null, chrom, strand, null, start, stop
    from annotation_features
    where kind = 'gene' and (gene, chrom, strand) not in (select (gene, chrom, strand) from broken)
),
begins as (
    select
        *,
        start > coalesce(max(stop) over before, start) + $longest_gap as is_new
    from spans
    window before as (
        partition by gene, chrom, strand
        order by start, stop, transcript, piece
        rows between unbounded preceding and 1 preceding
    )
),
numbered as (
    select
        *,
        count_if(is_new) over (
            partition by gene, chrom, strand
            order by start, stop, transcript, piece
            rows between unbounded preceding and current row
        ) as number
    from begins
),
named as (
    select
        *,
        min(start) filter (where piece is not null) over (partition by gene, chrom, strand, number) as first_base
    from numbered
    where piece is not null
),
counted as (
    select
        *,
        count(distinct (chrom, strand)) over (partition by gene) as n_strands,
        count(distinct number) over (partition by gene, chrom, strand) as n_loci
    from named
)
select
    gene,
    transcript,
    chrom,
    strand,
    piece,
    gene
        || case when n_strands > 1 or n_loci > 1 then '@' || chrom || ':' || strand else '' end
        || case when n_loci > 1 then ':' || first_base else '' end as gene_id
from counted
