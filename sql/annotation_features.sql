-- annotation_features: the lines of a GTF or GFF3 file with the attributes that matter, each in its own format.
-- grain:   line
-- reads:   annotation_lines
-- params:
-- columns: line         bigint     number of the line in the file
--          chrom        varchar    contig
--          kind         varchar    exon, CDS, UTR (and codons), gene, transcript (all between gene and exon), other
--          start        bigint     first base, from 1
--          stop         bigint     last base
--          strand       varchar    + or -, or anything else where it is unknown
--          is_gff3      boolean    whether the attributes are those of GFF3
--          id           varchar    ID of GFF3, transcript_id of a GTF line, or null
--          parents      varchar[]  what the line belongs to, in GTF its transcript; an empty text if unknown
--          gene         varchar    gene that the line itself names, or null
--          gene_name    varchar    its name, or null
--          gene_type    varchar    its biotype, or null
--          part         varchar    number of the part, of a feature in several parts, or null
--          is_trans     boolean    whether it is spliced in trans
--          is_circular  boolean    whether the contig is a circle
with formats as (
    select
        * exclude (attributes),
        regexp_matches(attributes, '^\s*[^\s=;"]+=') as is_gff3,
        -- a program for tables puts quotes around the column and doubles those inside it
        case
            when regexp_matches(attributes, '""[^\s;"]') then replace(trim(attributes, '"'), '""', '"')
            else attributes
        end as attributes
    from annotation_lines
),
split as (
    select
        * exclude (attributes),
        case when is_gff3 then '=' else ' ' end as separator,
        case
            when is_gff3 then list_filter(string_split(attributes, ';'), lambda pair: contains(pair, '='))
            -- a value in quotes is matched as one, so that neither a semicolon nor a key inside it counts
            else regexp_extract_all(translate(attributes, chr(9), ' '), '[^ ;="]+ +(?:"[^"]*"|[^ ;"]+)')
        end as pairs
    from formats
),
keyed as (
    select
        * exclude (pairs, separator),
        list_transform(pairs, lambda pair: trim(split_part(pair, separator, 1))) as keys,
        list_transform(pairs, lambda pair: nullif(trim(pair[strpos(pair, separator) + 1 :], ' "'), '')) as found
    from split
),
read as (
    select
        line,
        start,
        stop,
        strand,
        is_gff3,
        case when is_gff3 then url_decode(chrom) else chrom end as chrom,
        case
            when kind in ('exon', 'CDS') then kind
            when lower(kind) in ('five_prime_utr', 'three_prime_utr', 'utr', '5utr', '3utr') then 'UTR'
            when kind in ('start_codon', 'stop_codon') then 'UTR'
            when kind ilike '%gene' then 'gene'
            -- GTF has lines of a transcript that are not the transcript, such as introns
            when is_gff3 or kind ilike '%transcript' or kind ilike '%rna' then 'transcript'
            else 'other'
        end as kind,
        case when is_gff3 then url_decode(found[list_position(keys, 'ID')]) end as id,
        coalesce(
            found[list_position(keys, 'transcript_id')],
            case when not is_gff3 then found[list_position(keys, 'transcriptId')] end
        ) as transcript,
        -- commas separate parents; an encoded one belongs to a name, so decoding comes last
        list_filter(
            list_transform(
                string_split(found[list_position(keys, 'Parent')], ','), lambda name: url_decode(trim(name))
            ),
            lambda name: name <> ''
        ) as parents,
        found[list_position(keys, 'gene_id')] as gene_id,
        coalesce(found[list_position(keys, 'geneID')], found[list_position(keys, 'gene')]) as symbol,
        case when not is_gff3 then found[list_position(keys, 'name')] end as jgi_name,
        coalesce(
            found[list_position(keys, 'gene_name')],
            found[list_position(keys, 'gene_symbol')],
            found[list_position(keys, 'Name')],
            found[list_position(keys, 'gene')]
        ) as gene_name,
        found[list_position(keys, 'gene_name')] as own_name,
        coalesce(
            found[list_position(keys, 'gene_type')],
            found[list_position(keys, 'gene_biotype')],
            found[list_position(keys, 'biotype')]
        ) as gene_type,
        found[list_position(keys, 'part')] as part,
        replace(lower(found[list_position(keys, 'exception')]), '_', '-') = 'trans-splicing'
        or lower(found[list_position(keys, 'trans_splicing')]) = 'true' as is_trans,
        lower(found[list_position(keys, 'Is_circular')]) = 'true' as is_circular
    from keyed
)
select
    line,
    chrom,
    kind,
    start,
    stop,
    strand,
    is_gff3,
    case when is_gff3 then id else transcript end as id,
    case
        when is_gff3 and len(parents) > 0 then parents
        when is_gff3 then [coalesce(url_decode(transcript), '')]
        else [coalesce(transcript, '')]
    end as parents,
    case
        when not is_gff3 then coalesce(gene_id, symbol, jgi_name)
        -- the symbol of a gene need not be unique, its ID is
        when kind = 'gene' then coalesce(url_decode(gene_id), regexp_replace(id, '^gene[-:]', ''))
        else url_decode(coalesce(gene_id, symbol))
    end as gene,
    case
        when not is_gff3 then gene_name
        when kind in ('gene', 'transcript') then url_decode(gene_name)
        else url_decode(own_name)
    end as gene_name,
    case when is_gff3 then url_decode(gene_type) else gene_type end as gene_type,
    part,
    coalesce(is_trans, false) as is_trans,
    coalesce(is_circular, false) as is_circular
from read
