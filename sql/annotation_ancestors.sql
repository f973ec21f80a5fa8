-- annotation_ancestors: the gene that each parent of an exon belongs to, found by climbing from parent to parent.
-- grain:   transcript
-- reads:   annotation_features
-- params:
-- columns: transcript  varchar  what an exon names as its parent
--          ancestor    varchar  the last line on the way up, or the last name where no line has it
--          gene        varchar  gene named by the last line on the way up, or null
--          is_endless  boolean  whether the way up comes back to itself
with recursive nodes as (
    select
        id,
        arg_min({'is_gene': kind = 'gene', 'parent': nullif(parents[1], ''), 'gene': gene}, line) as node
    from annotation_features
    where is_gff3 and id is not null and kind in ('gene', 'transcript')
    group by id
),
starts as (
    select distinct unnest(parents) as transcript
    from annotation_features
    where is_gff3 and kind not in ('gene', 'transcript')
),
climb as (
    select
        starts.transcript,
        starts.transcript as ancestor,
        nodes.node.gene as gene,
        case when not nodes.node.is_gene then nodes.node.parent end as parent,
        0 as depth
    from starts
    left join nodes on nodes.id = starts.transcript
    union all
    select
        climb.transcript,
        climb.parent,
        case when nodes.id is null then climb.gene else nodes.node.gene end,
        case when not nodes.node.is_gene then nodes.node.parent end,
        climb.depth + 1
    from climb
    left join nodes on nodes.id = climb.parent
    where climb.parent is not null and climb.depth < 32
)
select
    transcript,
    arg_max(ancestor, depth) as ancestor,
    arg_max({'gene': gene}, depth).gene as gene,
    max(depth) = 32 as is_endless
from climb
where transcript <> ''
group by transcript
