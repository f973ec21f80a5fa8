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
select
    annotation_introns.chrom,
    annotation_introns.strand,
    annotation_introns.left_end,
    annotation_introns.right_start,
    min(annotation_introns.gene_id) as gene_id,
    count(distinct spanned.gene_id) as n_spanned
from annotation_introns
left join annotation_genes as spanned
    on spanned.chrom = annotation_introns.chrom and spanned.strand = annotation_introns.strand
    and spanned.start > annotation_introns.left_end and spanned.stop < annotation_introns.right_start
    and spanned.gene_id <> annotation_introns.gene_id
where not annotation_introns.is_short
group by all
having n_spanned > 0 or annotation_introns.right_start - annotation_introns.left_end - 1 > $longest_intron
order by all
