-- variants: every way to join the members, the chosen one marked, and the ensemble without each member; out of fold.
select
    variant,
    is_chosen,
    metric,
    class,
    round(value, 6) as value,
    round(low, 6) as low,
    round(high, 6) as high
from metrics
where
    scope = 'ensemble'
    and evaluated_on = 'oof'
    and (metric, class) in (('log_loss', 'all'), ('average_precision', 'macro'), ('f1', 'macro'))
order by rowid
