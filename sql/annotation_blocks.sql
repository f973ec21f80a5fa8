-- annotation_blocks: the exons of each transcript, cut where no intron can lie between two of them.
-- grain:   gene, transcript, chrom, strand, piece, line
-- reads:   annotation_exons, annotation_spans, left_out_introns
-- params:
-- columns: gene        varchar  gene, as the annotation names it
--          transcript  varchar  transcript
--          chrom       varchar  contig
--          strand      varchar  + or -
--          piece       bigint   a run of exons with introns between them; a transcript in one location has one
--          line        bigint   number of the line in the file
--          start       bigint   first base
--          stop        bigint   last base
--          left_end    bigint   last base of the exons before it in its piece, or null
--          is_exon     boolean  whether the line is an exon, or the piece of one
with known as (
    select
        *,
        bool_or(kind = 'exon') over (partition by gene, transcript, chrom, strand) as has_exons,
        bool_or(kind = 'exon') over (partition by gene, chrom, strand) as gene_has_exons
    from annotation_exons
),
used as (
    select *
    from known
    -- pieces make exons only where no line gives them; without a name, pieces are those of the exons
    where kind = 'exon' or (not has_exons and (transcript <> '' or not gene_has_exons))
),
several as (
    select * from annotation_spans where n_spans > 1
),
located as (
    select
        used.*,
        min(of_gene.start) as gene_start,
        min(of_transcript.start) as transcript_start,
        min(of_name.start) as name_start
    from used
    left join several as of_gene
        on of_gene.gene = used.gene and of_gene.transcript is null
        and of_gene.chrom = used.chrom and of_gene.strand = used.strand
        and used.start between of_gene.start and of_gene.stop
    left join several as of_transcript
        on of_transcript.gene = used.gene and of_transcript.transcript = used.transcript
        and of_transcript.chrom = used.chrom and of_transcript.strand = used.strand
        and used.start between of_transcript.start and of_transcript.stop
    left join several as of_name
        on of_name.gene is null and of_name.transcript = used.transcript
        and of_name.chrom = used.chrom and of_name.strand = used.strand
        and used.start between of_name.start and of_name.stop
    group by all
),
parted as (
    select
        *,
        {
            'gene': gene_start,
            'transcript': coalesce(transcript_start, name_start),
            'part': part,
            -- where the parts are not marked, no exon of a gene spliced in trans surely follows another
            'line': case when is_trans and part is null and gene_start is null then line end
        } as location
    from located
),
ordered as (
    select
        *,
        max(stop) over (
            partition by gene, transcript, chrom, strand, location
            order by start, stop, line
            rows between unbounded preceding and 1 preceding
        ) as left_end
    from parted
),
broken as (
    select
        ordered.*,
        left_out_introns.left_end is not null as is_broken
    from ordered
    left join left_out_introns
        on left_out_introns.chrom = ordered.chrom and left_out_introns.strand = ordered.strand
        and left_out_introns.left_end = ordered.left_end and left_out_introns.right_start = ordered.start
),
pieces as (
    select
        *,
        count_if(is_broken) over (
            partition by gene, transcript, chrom, strand, location order by start, stop, line
        ) as number
    from broken
)
select
    gene,
    transcript,
    chrom,
    strand,
    dense_rank() over (partition by gene, transcript, chrom, strand order by location, number) as piece,
    line,
    start,
    stop,
    case when not is_broken then left_end end as left_end,
    kind = 'exon' as is_exon
from pieces
