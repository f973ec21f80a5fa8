"""`Run`: the folder of a run as Python sees it: scores, predictions, importances, model, SQL."""

from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_duck.api.arguments import records_of
from mi_duck.api.distil import distil
from mi_duck.api.showing import showing
from mi_duck.console import Table
from mi_duck.data.database import Relation, read_parquet, relation_of
from mi_duck.data.sql_files import named_text
from mi_duck.errors import CheckpointError
from mi_duck.evaluate.catalogue import open_catalogue, score_table
from mi_duck.evaluate.report_tables import read_typed
from mi_duck.report.records import read_run
from mi_duck.report.summary import verdict
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan
from mi_duck.settings import Scanning
from mi_duck.workflow.pipeline import is_finished
from mi_duck.workflow.true_rate import evaluate_sequence
from mi_duck.workflow.views import headline_table

if TYPE_CHECKING:
    from mi_duck.ensemble.interface import MatrixModel
    from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel
    from mi_duck.genome.predict_sequence import ScanSummary


class Run:
    """A run that was made here or by ``mi-duck run``.

    Tables come as relations of DuckDB: they show themselves, ``.df()``, ``.pl()`` and ``.arrow()`` turn them into what you
    work with, and ``.filter("...")`` and ``.aggregate("...")`` go on asking. Nothing is loaded before it is looked at.

    Parameters
    ----------
    folder
        Its folder.

    Raises
    ------
    mi_duck.errors.CheckpointError
        The folder holds no run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files = RunFolder(self.folder)
        self._files.read_plan()

    @property
    def plan(self) -> Plan:
        """What was asked and decided: data, settings, costs, instances."""
        return self._files.read_plan()

    @property
    def is_finished(self) -> bool:
        """Whether all steps ended, and no file was changed since."""
        return is_finished(self._files, self.plan)

    @cached_property
    def model(self) -> "ConsolidatedMetaModel | InstanceModel | MatrixModel":
        """The model of the run, with ``predict`` and ``predict_proba``."""
        from mi_duck.classifiers.model import load_unified_model

        model: ConsolidatedMetaModel | InstanceModel | MatrixModel = load_unified_model(self.folder)
        return model

    @property
    def verdict(self) -> str:
        """Whether the ensemble is better than the base scores, in a sentence or two."""
        return verdict(read_run(self.folder))

    @property
    def scores(self) -> Relation:
        """Every score, out of fold, with its 95 % interval: of base scores, members, ensemble, and the difference."""
        return self.sql(named_text("scores"))

    def sql(self, query: str) -> Relation:
        """Ask SQL of the run's catalogue, whose tables are described in ``sql/README.md``.

        Raises
        ------
        mi_duck.errors.DataError
            With DuckDB's own words, where the query is not a single valid statement.
        """
        return open_catalogue(self._files).relation(query)

    def out_of_fold(self) -> Relation:
        """Return a row for each row of the data, with probabilities by models that never saw its group."""
        return read_parquet(self._there(self._files.out_of_fold, "'mi-duck consolidate'"))

    def importance(self) -> Relation:
        """Return the mean absolute SHAP value of every feature, the largest first; by class too of more than two.

        Raises
        ------
        CheckpointError
            They are not there, or the run is not of boosted trees, which alone have them.
        """
        estimator = self.plan.settings.estimator
        if not self.plan.settings.is_boosted:
            raise CheckpointError(f"{self.folder} is a run of {estimator}; only boosted trees have importances")
        found = read_typed(self._there(self._files.shap_importance, "'mi-duck explain'"))
        if len(self.plan.data.distinct_classes) == 1:  # of two classes the values are the same but for the sign
            found = found.select(["feature", "shap_importance"])
        return relation_of(found)

    def predict_sequence(self, out: str | Path, *, threads: int | None = None, **options: Any) -> "ScanSummary":
        """Predict the positions of a genome, as ``mi-duck predict RUN --fasta`` does; the same call continues.

        Parameters
        ----------
        out
            File to write: ``.parquet`` (positions from 1), ``.bed``, ``.bed.gz`` or ``.bw`` (from 0, half-open).
        options
            Of `mi_duck.settings.Scanning`: ``fasta``, one of ``annotation``, ``regions`` and ``whole_contigs``, and
            ``candidates``, ``min_score``, ``base_scores``, ``base_score_offset``.

        Raises
        ------
        TypeError
            There is no such option.
        mi_duck.errors.MiDuckError
            The files or the model cannot be used; the message says what to do.
        """
        from mi_duck.genome.predict_sequence import predict_sequence

        (scanning,) = records_of("predict_sequence", options, (Scanning,))
        with showing(threads, None) as context:
            return predict_sequence(
                self.model, scanning, Path(out), source=str(self.folder), threads=context.threads, report=context.report
            )

    def true_rate(
        self,
        fasta: str | Path,
        annotation: str | Path,
        *,
        n_genes: int = 100,
        threads: int | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Score every position of some genes, by models that never saw them, as ``mi-duck evaluate RUN --fasta`` does.

        Returns
        -------
        dict
            ``facts``, ``scores`` (model, class, metric, value, and the ends of its 95 % interval), ``errors`` by kind.
        """
        (scanning,) = records_of("true_rate", {"fasta": fasta, "annotation": annotation} | options, (Scanning,))
        with showing(threads, None) as context:
            return evaluate_sequence(self.folder, scanning, n_genes, context)

    def distil(self, out: str | Path, **options: Any) -> "ConsolidatedMetaModel | InstanceModel":
        """Fit one booster per class to the ensemble, write that model and return it; see `mi_duck.distil`."""
        model: ConsolidatedMetaModel | InstanceModel = distil(self.folder, out, **options)
        return model

    @property
    def report(self) -> Path:
        """The report, a page for a browser."""
        if not self._files.page.is_file():
            raise CheckpointError(f"no report in {self.folder} yet; 'mi-duck report {self.folder}' writes it")
        return self._files.page

    def _there(self, file: Path, maker: str) -> Path:
        if not file.is_file():
            raise CheckpointError(f"no {file.name} in {self.folder}; {maker} writes it")
        return file

    def __repr__(self) -> str:
        """Return what the run is, in one line."""
        data = self.plan.data
        state = "finished" if self.is_finished else "not finished"
        return (
            f"Run({str(self.folder)!r}, {data.n_genes:,} groups of '{data.gene_column}', {data.n_rows:,} rows, {state})"
        )

    def _repr_html_(self) -> str:
        """Return the verdict, the scores and where the report is, for a notebook."""
        if not self._files.catalogue.is_file():
            return escape(repr(self))
        page = f'<a href="{escape(str(self._files.page))}">report</a>' if self._files.page.is_file() else "no report"
        return (
            f"<p>{escape(self.verdict)}</p>{_html(headline_table(score_table(self.folder)))}"
            f"<p>{escape(repr(self))}, {page}</p>"
        )


def _html(table: Table) -> str:
    head = "".join(f"<th>{escape(str(name))}</th>" for name in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(str(one))}</td>' for one in row)}</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
