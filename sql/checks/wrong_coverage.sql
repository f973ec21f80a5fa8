-- wrong_coverage: lines of gene_coverage_report.csv that differ from genes and plan; none is a pass.
-- grain:   gene_id
-- reads:   coverage_report, run_genes, windows
-- params:  $n_pilot_genes  genes of the lowest ranks, which chose the features
-- columns: gene_id  varchar the gene
--          reported varchar what the report says: rows, fold, instances, trained, held out, pilot; null without a line
--          expected varchar the same by genes and plan; null where the run has no such gene
with members as (
    select
        run_genes.gene_id,
        string_agg(windows.instance_id::varchar, ';' order by windows.instance_id) as instances
    from run_genes
    join windows on run_genes.gene_rank >= windows.first_rank and run_genes.gene_rank < windows.stop_rank
    where windows.is_member
    group by all
),
expected as (
    select
        run_genes.gene_id,
        concat_ws(
            ',',
            run_genes.n_rows,
            coalesce(run_genes.fold::varchar, ''),
            coalesce(members.instances, ''),
            (members.instances is not null)::integer,
            run_genes.is_holdout::integer,
            (run_genes.gene_rank < $n_pilot_genes)::integer
        ) as line
    from run_genes
    left join members using (gene_id)
),
reported as (
    select
        gene_id,
        min(concat_ws(',', n_rows, fold, instances, trained, held_out, is_pilot)) as line,
        count(*) as n_lines
    from coverage_report
    group by all
)
select
    coalesce(expected.gene_id, reported.gene_id) as gene_id,
    reported.line as reported,
    expected.line as expected
from expected
full join reported using (gene_id)
where expected.line is distinct from reported.line or reported.n_lines > 1
order by gene_id
