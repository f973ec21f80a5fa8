-- coverage: genes and rows of the dataset, selected, and trained.
select *
from coverage
