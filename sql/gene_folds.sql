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
-- filled: rows of each class in each fold so far, fold by fold in one list; placed: their sums over the folds;
-- squares: the sums of their squares
assigned as (
    select
        0::bigint as step,
        null::varchar as fold_group,
        null::bigint as fold,
        list_transform(range($n_folds * n_classes), lambda i: 0::hugeint) as filled,
        list_transform(range(n_classes), lambda i: 0::hugeint) as placed,
        list_transform(range(n_classes), lambda i: 0::hugeint) as squares
    from totals
    union all
    select
        step,
        fold_group,
        chosen.fold as fold,
        list_transform(
            filled,
            lambda x, i: case when (i - 1) // n_classes = chosen.fold then x + n[(i - 1) % n_classes + 1] else x end
        ) as filled,
        list_transform(placed, lambda x, c: x + n[c]) as placed,
        list_transform(squares, lambda x, c: x + n[c] * (2 * filled[chosen.fold * n_classes + c] + n[c])) as squares
    from (
        select
            ordered.step,
            ordered.fold_group,
            ordered.n,
            ordered.n_classes,
            assigned.filled,
            assigned.placed,
            assigned.squares,
            -- standard deviation over the folds of the share of a class, times n_folds, if the group went to fold f
            list_reduce(
                list_transform(
                    range($n_folds),
                    lambda f: {
                        'fold': f,
                        'n_rows': list_sum(filled[f * n_classes + 1:(f + 1) * n_classes]),
                        'spread': list_sum(list_transform(
                            n,
                            lambda x, c: sqrt((
                                $n_folds * (squares[c] + x * (2 * filled[f * n_classes + c] + x))
                                - (placed[c] + x) * (placed[c] + x)
                            )::double) / total[c]::double
                        ))
                    }
                ),
                lambda best, x: case
                    when
                        x.spread < best.spread * (1 - 1e-9)
                        or (x.spread <= best.spread * (1 + 1e-9) and x.n_rows < best.n_rows)
                        then x
                    else best
                end
            ) as chosen
        from assigned
        join ordered on ordered.step = assigned.step + 1
    )
)
select
    gene_index.gene_id,
    gene_index.fold_group,
    assigned.fold
from gene_index
join assigned using (fold_group)
order by gene_index.gene_rank
