-- annotation_introns: the introns of each gene: the gaps between neighbouring exons of one transcript in one location.
-- grain:   gene_id, left_end, right_start
-- reads:   annotation_blocks, annotation_loci
-- params:  $shortest_intron  a gap of fewer bases is a gap of the alignment or a shift of the frame, not an intron
-- columns: gene_id      varchar  the gene's id
--          chrom        varchar  contig
--          strand       varchar  + or -
--          left_end     bigint   last base of the exon on the left
--          right_start  bigint   first base of the exon on the right
--          is_short     boolean  whether it is too short for an intron
select distinct
    annotation_loci.gene_id,
    chrom,
    strand,
    annotation_blocks.left_end,
    annotation_blocks.start as right_start,
    annotation_blocks.start - annotation_blocks.left_end <= $shortest_intron as is_short
from annotation_blocks
join annotation_loci using (gene, transcript, chrom, strand, piece)
where annotation_blocks.start > annotation_blocks.left_end + 1
