-- gene_folds: one fold per gene for the whole run; a fold group is never divided.
-- The greedy rule of scikit-learn's StratifiedGroupKFold on the group x class table: groups in falling order of the
-- spread of their class counts, ties by seed, each into the fold that keeps the shares of every class most even, at a
-- tie into the smallest. Spreads are built from whole numbers, so the result is the same everywhere.
-- grain:   gene_id
-- reads:   gene_index
-- params:  $n_folds  number of folds
--          $seed     any integer
-- columns: gene_id    varchar  the gene
--          fold_group varchar  its group
--          fold       bigint   0 .. $n_folds - 1
with recursive labels as (
    select
        fold_group,
        unnest(label_counts) as n_rows,
        generate_subscripts(label_counts, 1) as label
    from gene_index
),
group_labels as (
    select
        fold_group,
        label,
        sum(n_rows) as n_rows
    from labels
    group by all
),
totals as (
    select
        list(n_rows order by label) as total,
        count(*) as n_classes
    from (
        select
            label,
            sum(n_rows) as n_rows
        from group_labels
        group by all
    )
),
groups as (
    select
        fold_group,
        list(n_rows order by label) as n,
        count(*) * sum(n_rows * n_rows) - sum(n_rows) * sum(n_rows) as spread
    from group_labels
    group by all
),
ordered as materialized (
    select
        groups.fold_group,
        groups.n,
        totals.total,
        totals.n_classes,
        row_number() over (
            order by groups.spread desc, md5(concat_ws(':', $seed, 'fold', groups.fold_group)), groups.fold_group
        ) as step
    from groups
    cross join totals
),
running as (
    select
        step,
        label,
        sum(n_rows) over (partition by label order by step) as n_assigned
    from (
        select
            step,
            unnest(n) as n_rows,
            generate_subscripts(n, 1) as label
        from ordered
    )
),
assigned_squares as (
    select
        step,
        list(n_assigned::hugeint * n_assigned::hugeint order by label) as squares
    from running
    group by step
),
-- what does not depend on the folds chosen, in lists of n_folds x n_classes numbers, fold by fold: rows of the group;
-- squares of the rows assigned up to this step in all folds together; rows of the dataset
steps as materialized (
    select
        ordered.step,
        ordered.fold_group,
        ordered.n_classes,
        flatten(list_transform(range($n_folds), lambda f: ordered.n)) as n,
        flatten(list_transform(range($n_folds), lambda f: assigned_squares.squares)) as all_squares,
        flatten(list_transform(range($n_folds), lambda f: ordered.total)) as total
    from ordered
    join assigned_squares using (step)
),
-- filled: rows so far; squares: their squares, added up over the folds and repeated for each
assigned as (
    select
        0::bigint as step,
        null::varchar as fold_group,
        null::bigint as fold,
        list_transform(range($n_folds * n_classes), lambda i: 0::hugeint) as filled,
        list_transform(range($n_folds * n_classes), lambda i: 0::hugeint) as squares
    from totals
    union all
    select
        step,
        fold_group,
        fold,
        list_transform(filled, lambda x, i: case when (i - 1) // n_classes = fold then x + n[i] else x end) as filled,
        list_transform(
            squares, lambda x, i: x + n[i] * (2 * filled[fold * n_classes + (i - 1) % n_classes + 1] + n[i])
        ) as squares
    from (
        select
            step,
            fold_group,
            n_classes,
            n,
            filled,
            squares,
            list_reduce(
                list_transform(
                    range($n_folds),
                    lambda f: {
                        'fold': f,
                        'n_rows': list_sum(filled[f * n_classes + 1:(f + 1) * n_classes]),
                        'spread': list_sum(spreads[f * n_classes + 1:(f + 1) * n_classes])
                    }
                ),
                lambda best, x: case
                    when
                        x.spread < best.spread * (1 - 1e-9)
                        or (x.spread <= best.spread * (1 + 1e-9) and x.n_rows < best.n_rows)
                        then x
                    else best
                end
            ).fold as fold
        from (
            select
                steps.step,
                steps.fold_group,
                steps.n_classes,
                steps.n,
                assigned.filled,
                assigned.squares,
                -- standard deviation over the folds of the share of a class, times n_folds, if this were the fold
                list_transform(
                    assigned.filled,
                    lambda x, i: sqrt(
                        (
                            $n_folds * (assigned.squares[i] + steps.n[i] * (2 * x + steps.n[i])) - steps.all_squares[i]
                        )::double
                    ) / steps.total[i]::double
                ) as spreads
            from assigned
            join steps on steps.step = assigned.step + 1
        )
    )
)
select
    gene_index.gene_id,
    gene_index.fold_group,
    assigned.fold
from gene_index
join assigned using (fold_group)
order by gene_index.gene_rank
