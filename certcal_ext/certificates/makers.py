# SPDX-License-Identifier: MIT
"""The ways into ``Certificates``: votes, scores, a log, another verifier."""

from __future__ import annotations

import warnings
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from certcal_ext.certificates import readers, sources
from certcal_ext.certificates.file_options import FileOptions
from certcal_ext.certificates.files import of_file
from certcal_ext.certificates.provenance import Provenance

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.stopping.adaptive import AdaptiveResult


class CertificateMakers:
    """The constructors of ``Certificates``."""

    @classmethod
    def from_counts(
        cls,
        counts: Any,
        labels: Any,
        sigma: float,
        alpha: float = 1e-3,
        selection: Any = None,
        *,
        index: Any = None,
        runner_up: bool = False,
        keep_counts: bool = False,
        split: int | None = None,
        seed: int = 0,
    ) -> Certificates:
        """Certificates from votes of a classifier under Gaussian noise.

        With ``selection`` or ``split``, each row's interval holds with probability at least 1 - alpha. With neither, a row
        is certified and wrong with probability at most 3/2 alpha, and the intervals of rows that are not certified may miss
        more often (docs/theory.md, section 7); joint bounds account for both.

        Args:
            counts: (N, K) whole numbers, votes of the estimation draws; rows of equal sum. With ``split``, of all draws.
            labels: (N,) classes, or None: intervals and predictions are certified, and metrics are
                not available.
            sigma: standard deviation of the noise, in pixel units.
            alpha: failure probability of one interval, both sides together.
            selection: (N,) classes chosen by separate draws. None chooses the class with most votes
                (the lowest of equals) in ``counts`` themselves, which the provenance then notes, or
                in the draws of ``split``.
            index: (N,) sample ids; None numbers the rows.
            runner_up: also bounds the most probable other class from above, and certifies the
                prediction by pA against pB where that is better than pA against 1 - pA. It takes
                a tenth of alpha; where ``selection`` is None also a union over the classes.
            keep_counts: keeps the votes of all classes, for class-wise metrics.
            split: so many of each row's draws, taken at random, select the class, and only the
                others estimate it (see ``split_counts``): the way to intervals that all hold, where
                one set of draws is all there is. 100 is a usual number.
            seed: of that choice; fix it before you look at the result.

        Returns:
            ``Certificates``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: unequal row sums, fewer than two classes, no samples, both ``selection`` and
                ``split``, or a value out of range.

        Warns:
            UserWarning: more samples abstain than are certified; the best radius for this n and
                alpha is named.
        """
        result = _built(
            cls,
            sources.of_counts(
                counts, labels, sigma, alpha, selection, index, runner_up, keep_counts, split, seed
            ),
        )
        _warn_of_abstentions(result)
        return result

    @classmethod
    def from_votes(
        cls,
        votes: Any,
        n: Any,
        predicted: Any,
        labels: Any,
        sigma: float,
        alpha: float = 1e-3,
        *,
        index: Any = None,
    ) -> Certificates:
        """Certificates from votes of each sample's own class, selected by separate draws.

        Args:
            votes: (N,) whole numbers, votes of the predicted class among the estimation draws.
            n: (N,) draws of each sample, or one number for all.
            predicted: (N,) classes chosen by separate draws.
            labels: (N,) classes, or None.
            sigma: standard deviation of the noise, in pixel units.
            alpha: failure probability of one interval, both sides together.
            index: (N,) sample ids; None numbers the rows.

        Returns:
            ``Certificates``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: no samples, more votes than draws, or a value out of range.

        Warns:
            UserWarning: more samples abstain than are certified.

        Example:
            >>> from certcal_ext import Certificates
            >>> made = Certificates.from_votes([990, 4000], [1000, 4001], [0, 1], [0, 0], 0.25)
            >>> made.at(0.25).index
            array([0, 1])
        """
        result = _built(cls, sources.of_votes(votes, n, predicted, labels, sigma, alpha, index))
        _warn_of_abstentions(result)
        return result

    @classmethod
    def from_adaptive(
        cls, result: AdaptiveResult, predicted: Any, labels: Any = None, *, index: Any = None
    ) -> Certificates:
        """Certificates of a run that stopped samples early (see ``run_adaptive``).

        Args:
            result: the run.
            predicted: (N,) classes selected by draws that the run did not use.
            labels: (N,) classes, those that the run's ``correct`` came from; None where it had none.
            index: (N,) sample ids; None numbers the rows.

        Returns:
            ``Certificates``, which keep the rules of stopping. Where the run was told the labels, metrics over certified
            samples are to be had at the radii that it was planned for, and over all samples at any.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: shapes that differ, or labels that are not the run's.

        Warns:
            UserWarning: more samples abstain than are certified.
        """
        made = _built(cls, sources.of_adaptive(result, predicted, labels, index))
        _warn_of_abstentions(made)
        return made

    @classmethod
    def from_scores(
        cls,
        histogram: Any,
        mean: Any,
        votes: Any,
        predicted: Any,
        labels: Any,
        sigma: float,
        alpha: float = 1e-3,
        *,
        interval: str = "cdf",
        index: Any = None,
        num_classes: int | None = None,
    ) -> Certificates:
        """Certificates whose confidence is the mean softmax score of the predicted class.

        The prediction is certified by the votes of the same draws. Half of alpha goes to the
        one-sided bound on the votes, half to the scores.

        Args:
            histogram: (N, J) whole numbers, scores in J equal bins of [0, 1]; rows of equal sum n.
            mean: (N,) means of the scores.
            votes: (N,) votes of the predicted class.
            predicted: (N,) classes chosen by separate draws.
            labels: (N,) classes, or None.
            sigma: standard deviation of the noise, in pixel units.
            alpha: failure probability of one sample's bounds together.
            interval: "cdf" (a band for the distribution of the scores, shifted threshold by
                threshold), or an interval for the mean alone: "betting", "bernstein", "hoeffding".
            index: (N,) sample ids; None numbers the rows.
            num_classes: K where the scores are those of ``score_histogram``: bounds are then widened by what its softmax
                is off by, 2^-20 + K 2^-33. None: the scores are taken as they are.

        Returns:
            ``Certificates``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: no samples, shapes or sums that differ, or a value out of range.

        Warns:
            UserWarning: more samples abstain than are certified.
        """
        made = sources.of_scores(
            histogram, mean, votes, predicted, labels, sigma, alpha, interval, index, num_classes
        )
        result = _built(cls, made)
        _warn_of_abstentions(result)
        return result

    @classmethod
    def from_file(cls, path: str | PathLike[str], **options: Any) -> Certificates:
        r"""Certificates from any file that they can be made of, told by its content.

        * certificates: Parquet, the JSON of ``export``, or a frame of ``to_pandas`` that pandas wrote;
        * vote counts: ``.npz`` (see ``readers.read_counts``), JSON;
        * a certification log in any dialect (see ``readers.read_cohen_log``);
        * intervals of another verifier: a table with ``correct`` (or ``label`` and ``predicted``), ``lower`` and ``upper``,
          as CSV, TSV, JSON, ``.npz`` or Parquet, of pandas and polars too;
        * votes for each row's own class: a table with ``votes``, ``n`` and ``predicted``;
        * the CSV of ``export``, which has lost its provenance: ``sigma`` (and ``alpha``) give it back.

        Args:
            path: the file.
            options: what the file does not say, see ``FileOptions``: ``sigma``, ``n``, ``alpha``, ``interval_radius``,
                ``interval_norm``, ``labels_key``, ``runner_up``, ``keep_counts``, ``split``, ``split_seed``.

        Returns:
            ``Certificates``.

        Raises:
            FileNotFoundError: there is no such file.
            TypeError: an option that does not exist, or of the wrong kind.
            ValueError: a file of no such kind, which the message names; an option that is missing, contradicts the file,
                or has no use for it; values that contradict each other.

        Warns:
            UserWarning: more samples abstain than are certified.

        Example:
            >>> import pathlib, tempfile
            >>> from certcal_ext import Certificates
            >>> path = pathlib.Path(tempfile.mkdtemp()) / "verified.csv"
            >>> _ = path.write_text("correct,lower,upper\n1,0.8,0.9\n0,0.5,0.6\n")
            >>> made = Certificates.from_file(path, interval_norm="linf", interval_radius=8 / 255)
            >>> made.brier(8 / 255).round(3)
            array([0.2])
        """
        result = _built(cls, of_file(path, FileOptions(**options)))
        _warn_of_abstentions(result)
        return result

    @classmethod
    def from_npz(
        cls,
        path: str | PathLike[str],
        sigma: float | None = None,
        alpha: float | None = None,
        *,
        runner_up: bool = False,
        keep_counts: bool = False,
        labels_key: str | None = None,
        split: int | None = None,
        seed: int = 0,
    ) -> Certificates:
        """``from_counts`` on a file of votes (see ``readers.read_counts``).

        A file has one set of draws, which selects the class too, unless ``split`` keeps some of them for that. Rows whose
        votes have another sum are certified with their own number of draws.

        Args:
            path: ``.npz`` file with ``counts`` and, where they are known, labels and ``sigma``.
            sigma: standard deviation of the noise; None takes the file's.
            alpha: failure probability of one interval, both sides together; None takes the file's,
                or 0.001.
            runner_up: as in ``from_counts``.
            keep_counts: as in ``from_counts``.
            labels_key: name of the labels, where it is none of ``label``, ``labels``, ``y``,
                ``targets``.
            split: as in ``from_counts``.
            seed: as in ``from_counts``.

        Returns:
            ``Certificates``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: the file cannot be read, or neither it nor the caller says sigma, or they
                differ; or labels of another name, which is then asked for.

        Warns:
            UserWarning: more samples abstain than are certified.
        """
        stored = readers.read_counts(path, labels_key)
        result = _built(
            cls,
            sources.of_stored_votes(
                stored,
                path,
                sigma,
                alpha,
                runner_up=runner_up,
                keep_counts=keep_counts,
                split=split,
                seed=seed,
            ),
        )
        _warn_of_abstentions(result)
        return result

    @classmethod
    def from_cohen_log(
        cls,
        path: str | PathLike[str],
        sigma: float | None = None,
        n: int | None = None,
        alpha: float | None = None,
    ) -> Certificates:
        """Certificates from a certification log (see ``readers.read_cohen_log``).

        A printed radius stands for a range of vote counts, as it is rounded. The interval of a row
        runs from the Clopper-Pearson lower end of the least count to the upper end of the largest
        one, two-sided at ``alpha``, so it holds the interval that the true count would have given.
        The point estimate is the middle of the range.

        The largest radius of a log shows sigma, n and alpha together, where rows won all votes: they
        are checked against it, and a note of the provenance says where that is not possible.

        Args:
            path: table with label, predict and radius, in any dialect of the field.
            sigma: standard deviation of the noise that the log was made with, in pixel units; None
                takes the log's column.
            n: number of estimation draws that it was made with; a column of the log (``samplesize``)
                goes before it, row by row.
            alpha: failure probability of the log's one-sided bounds, and of one interval here; None
                takes the log's column, or 0.001.

        Returns:
            ``Certificates``; rows in which the log abstained abstain here.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: an argument out of range, or that neither the log nor the caller gives; a
                file that is no such log, naming the row; columns that say how rows were made in a
                way that is not supported; a radius that no count gives with this sigma, n and alpha,
                or a largest radius that contradicts them.

        Warns:
            UserWarning: more samples abstain than are certified.
        """
        result = _built(cls, sources.of_cohen_log(path, sigma, n, alpha))
        _warn_of_abstentions(result)
        return result

    @classmethod
    def from_intervals(
        cls,
        correct: Any,
        lower: Any,
        upper: Any,
        radius: float | None = None,
        confidence: Any = None,
        labels: Any = None,
        predicted: Any = None,
        *,
        norm: Any = None,
        index: Any = None,
    ) -> Certificates:
        """Certificates of another verifier: intervals and predictions that hold under attack.

        Args:
            correct: (N,) booleans or 0/1, whether the certified prediction is right.
            lower: (N,) lower ends of the confidence under attack.
            upper: (N,) upper ends.
            radius: size of the attacks that they hold against; a larger one is then an error, and
                at a smaller one the same intervals are returned, which hold there too. None: they
                are returned at whatever radius is asked for, unchecked.
            confidence: (N,) confidences without an attack, or None.
            labels: (N,) classes, or None.
            predicted: (N,) predicted classes, or None.
            norm: the norm that ``radius`` is in: "l2", "linf", ..., as text or as a number (2,
                ``math.inf``). None: it is not known here, and no sentence about these
                certificates names a norm.
            index: (N,) sample ids; None numbers the rows.

        Returns:
            ``Certificates``; every sample counts as certified.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: no samples, shapes that differ, a value out of range, ``correct`` that
                contradicts the classes, or a norm without a radius.

        Example:
            >>> from certcal_ext import Certificates
            >>> certificates = Certificates.from_intervals(
            ...     [1, 0], [0.8, 0.5], [0.9, 0.6], radius=8 / 255, norm="linf"
            ... )
            >>> certificates.brier(8 / 255).round(3), certificates.provenance.norm
            (array([0.2]), 'linf')
        """
        return _built(
            cls,
            sources.of_intervals(
                correct, lower, upper, radius, confidence, labels, predicted, norm, index
            ),
        )


def _built(kind: Any, parts: tuple[pa.Table, Provenance]) -> Certificates:
    made: Certificates = kind(*parts)
    return made


def _warn_of_abstentions(made: Certificates) -> None:
    abstained = int(np.count_nonzero(made.abstained))
    if abstained > len(made) - abstained:
        warnings.warn(
            f"{abstained} of {len(made)} samples abstain; {made.reach_words()}", stacklevel=3
        )
