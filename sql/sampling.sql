-- sampling: how easy negatives are sampled, as one row that the other statements join.
-- grain:   background
-- reads:
-- params:  $easy_below  negatives whose site score lies below are easy
--          $share       share of the easy negatives to keep, 0 to 1
--          $seed        any integer; the same seed keeps the same rows
--          $background  label of the negatives
-- columns: easy_below double   as given
--          share      double   as given
--          seed       bigint   as given
--          background varchar  as given
select
    $easy_below::double as easy_below,
    $share::double as share,
    $seed::bigint as seed,
    $background::varchar as background
