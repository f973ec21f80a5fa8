-- annotation_odd_introns: introns that span another gene of their strand completely, or are longer than any known one.
-- grain:   chrom, strand, left_end, right_start
-- reads:   annotation_introns, annotation_genes
-- params:  $longest_intron  bases
-- columns: chrom        varchar  contig
--          strand       varchar  + or -
--          left_end     bigint   last base of the exon on the left
--          right_start  bigint   first base of the exon on the right
--          gene_id      varchar  a gene that has it
--          n_spanned    bigint   genes of the strand between its ends
with begun as (
    -- a gene that begins inside is rare: only there are introns and genes compared pair by pair
    select annotation_introns.*
    from annotation_introns
    asof join annotation_genes as following
        on following.chrom = annotation_introns.chrom and following.strand = annotation_introns.strand
        and following.start > annotation_introns.left_end
    where not annotation_introns.is_short and following.start < annotation_introns.right_start
),
spanned as (
    select
        begun.gene_id,
        begun.chrom,
        begun.strand,
        begun.left_end,
        begun.right_start,
        annotation_genes.gene_id as inside
    from begun
    join annotation_genes
        on annotation_genes.chrom = begun.chrom and annotation_genes.strand = begun.strand
        and annotation_genes.start > begun.left_end and annotation_genes.stop < begun.right_start
        and annotation_genes.gene_id <> begun.gene_id
)
select
    chrom,
    strand,
    left_end,
    right_start,
    min(gene_id) as gene_id,
    count(distinct inside) as n_spanned
from annotation_introns
left join spanned using (gene_id, chrom, strand, left_end, right_start)
where not is_short
group by all
having n_spanned > 0 or right_start - left_end - 1 > $longest_intron
order by all
