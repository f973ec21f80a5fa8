-- annotation_genes: every gene with its introns, in the order of contigs, starts and ids.
-- grain:   gene_id
-- reads:   annotation_blocks, annotation_loci, annotation_introns, annotation_features
-- params:
-- columns: gene_id        varchar    the gene's id, unique
--          gene_name      varchar    its name, or an empty text
--          gene_type      varchar    its biotype, or an empty text
--          chrom          varchar    contig
--          strand         varchar    + or -
--          start          bigint     first base of its exons
--          stop           bigint     last base of its exons
--          n_transcripts  bigint     transcripts
--          n_exons        bigint     different exons
--          left_ends      bigint[]   last base of the exon to the left of each intron, ascending
--          right_starts   bigint[]   first base of the exon to its right
--          is_mixed       boolean    whether exons overlap in a transcript without a name
with blocks as (
    select annotation_loci.gene_id, annotation_blocks.*
    from annotation_blocks
    join annotation_loci using (gene, transcript, chrom, strand, piece)
),
merged as (
    -- pieces that touch are one exon; lines of exons stand for themselves
    select
        *,
        count_if(is_exon or left_end is null or start > left_end + 1) over (
            partition by gene_id, transcript, piece order by start, stop, line
        ) as exon
    from blocks
),
exons as (
    select distinct gene_id, min(start) as start, max(stop) as stop
    from merged
    group by gene_id, transcript, piece, exon
),
exon_counts as (
    select gene_id, count(*) as n_exons from exons group by gene_id
),
genes as (
    select
        gene_id,
        gene,
        chrom,
        strand,
        min(start) as start,
        max(stop) as stop,
        count(distinct transcript) as n_transcripts,
        bool_or(transcript = '' and start <= coalesce(left_end, 0)) as is_mixed
    from blocks
    group by gene_id, gene, chrom, strand
),
introns as (
    select
        gene_id,
        list(left_end order by left_end, right_start) as left_ends,
        list(right_start order by left_end, right_start) as right_starts
    from annotation_introns
    where not is_short
    group by gene_id
),
names as (
    -- the line of the gene itself comes before those of its exons
    select gene, arg_min({'name': gene_name, 'type': gene_type}, (kind <> 'gene', line)) as named
    from annotation_features
    where gene is not null and kind <> 'transcript'
    group by gene
)
select
    genes.gene_id,
    coalesce(names.named.name, '') as gene_name,
    coalesce(names.named.type, '') as gene_type,
    genes.chrom,
    genes.strand,
    genes.start,
    genes.stop,
    genes.n_transcripts,
    exon_counts.n_exons,
    coalesce(introns.left_ends, []) as left_ends,
    coalesce(introns.right_starts, []) as right_starts,
    genes.is_mixed
from genes
join exon_counts using (gene_id)
left join introns using (gene_id)
left join names using (gene)
order by genes.chrom, genes.start, genes.gene_id
