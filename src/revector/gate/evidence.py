"""The evidence that a swap needs: verification and gate, measured, kept with the generation, renewed when it ages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from revector.crash import crash_at
from revector.documents.documents import Documents
from revector.errors import ConfigError, GateFailed, GenerationGone, LabelError, PipelineError, VerificationFailed
from revector.formats.kept import plain
from revector.gate import draws
from revector.gate import gate as gates
from revector.gate.demand import GateScene
from revector.gate.demands import min_agreement
from revector.gate.figures import Value
from revector.gate.looks import next_look
from revector.gate.pipeline import Pipeline
from revector.gate.proxies import ProxyScores, candidates, judge_of, read_proxies
from revector.gate.query_set import QuerySet, asked_beside, unjudged_texts, usable_queries
from revector.gate.results import FIGURES, latest_result
from revector.interfaces import Progress
from revector.labels import LabelSource, load_labels
from revector.labels.judges.proxying import Candidates
from revector.labels.judges.settings import JudgeIdentity
from revector.lifecycle import STEPS
from revector.registry import cutoffs, moves, verdicts, work
from revector.registry.collections import Collection, Generation, read_generation
from revector.registry.control import add_event, control
from revector.serving.searcher import Searcher
from revector.spec import Gate, Revision
from revector.verify.readback import INVARIANTS, broken_invariants
from revector.verify.verification import IndexComparison

STEP_REEMBEDDED = 64
"""Documents that the step verify re-embeds: a few seconds on a CPU, on top of reading every row."""

KINDS = {"verify": "verify", "gate": "recall"}

_LATER = ("method", "metric", "min_agreement", "proxy", "max_text_to_image_drop", "max_image_to_text_drop")
EARLIER = {name: getattr(Gate(), name) for name in _LATER}
"""What a gate demanded that was kept before it could say so."""


class Evidence:
    """Verdicts on generations of one collection."""

    def __init__(
        self,
        engine: sa.Engine,
        cid: int,
        searcher: Searcher,
        labels: LabelSource | None,
        others: Path | None = None,
        *,
        actor: str,
        progress: Progress,
        pipeline: Pipeline | None = None,
        judges: Mapping[str, JudgeIdentity] | None = None,
    ) -> None:
        """``labels``: judged queries, None where there are none; ``others``: a file of queries without judgements.

        ``pipeline``: what is measured instead of plain searches. ``judges``: those that a gate may name as its proxy.
        """
        self._engine, self._cid, self._searcher, self._labels = engine, cid, searcher, labels
        self._others, self._pipeline, self._judges = others, pipeline, judges or {}
        self._documents = Documents(engine, cid)
        self._actor, self._progress = actor, progress

    def is_stale(self, generation: Generation, step: str, target: Revision) -> bool:
        """Whether the evidence of ``step`` (verify or gate) is missing, failed, old or overtaken by changes.

        Changes are those of the documents and, for the gate, of its thresholds in the migration file and the pipeline.
        """
        with self._engine.connect() as connection:
            if verdicts.stale_evidence(connection, generation, (KINDS[step],)) is not None:
                return True
            result = latest_result(connection, generation.gen, KINDS[step])
        if result is None or step != "gate":
            return False
        if result.measured and result.pipeline != self.through:
            return True
        return result.gate is not None and {**EARLIER, **result.gate} != plain(target.gate)

    def refuse_unmeasurable(self, target: Revision, collection: Collection) -> None:
        """Refuse a gate that could never pass, before the work; raises as ``gate.refuse_unmeasurable``.

        Without labels, only a first revision is measured by nothing, and one with a judge waits for people.
        """
        if target.gate.proxy is not None:
            judge_of(self._judges, target.gate.proxy)
        if not self._unlabelled(target.gate, collection):
            queries = self.queries()
            gates.refuse_unmeasurable(target.gate, queries, self._documents.count())
            if self._pipeline is not None:
                self._pipeline.refuse(queries)

    def verify(self, generation: Generation, token: int) -> Mapping[str, object]:
        """Prove that the index equals the documents. Raises ``VerificationFailed``; the verdict is kept either way.

        Raises ``EncoderError``, and keeps no verdict, where the encoder that must tell is itself at fault.
        """
        seen = self._see(generation, token)
        verdict = self._compare_rows(generation)
        self._keep(generation, "verify", verdict, seen, token)
        if not verdict.passed:
            raise VerificationFailed(
                f"generation {generation.gen} of revision {generation.revision} does not equal the documents: "
                f"{'; '.join(verdict.reasons)}. The alias was not moved; abort this migration and run it again, and "
                "keep the database for a bug report."
            )
        return verdict.detail

    def gate(
        self, generation: Generation, target: Revision, collection: Collection, token: int
    ) -> Mapping[str, object]:
        """Measure new and old and judge them. Raises ``GateFailed``; the verdict is kept either way.

        ``target`` is the migration file as it is now: the gate may be edited in a reviewed change until the swap.
        Where answers come from an HNSW index, ``min_overlap`` reads every stored vector once, as a stream: memory is
        that of the queries and of one block, time that of reading the table.
        """
        seen = self._see(generation, token)
        if self._unlabelled(target.gate, collection):
            verdict = gates.without_labels(target.gate, first=collection.active_gen is None)
        else:
            try:
                verdict = self._compare(target, generation, collection.active_gen)
            except PipelineError as error:
                detail = {"not_measured": str(error)}
                verdict = gates.GateVerdict(Value.FAIL, (str(error).removesuffix("."),), detail)
        self._keep(generation, "gate", verdict, seen, token)
        if not verdict.passed:
            failed = verdict.value is Value.FAIL
            more = "" if failed else "label more queries (`revector labels next` draws those that decide), "
            raise GateFailed(
                f"the gate of revision {generation.revision} {'failed' if failed else 'is inconclusive'}: "
                f"{'; '.join(verdict.reasons)}. The alias was not moved and everything serves as before; {more}run the "
                "step gate again after a reviewed change of the gate, `revector override` it, or `revector abort`."
            )
        return verdict.detail

    def renew(self, generation: Generation, target: Revision, collection: Collection, token: int) -> None:
        """Measure again what aged."""
        if self.is_stale(generation, "verify", target):
            self.verify(generation, token)
        if self.is_stale(generation, "gate", target):
            self.gate(generation, target, collection, token)

    def measure(
        self, generation: Generation, k: int, *, exact: bool = False, queries: QuerySet | None = None
    ) -> gates.GateMeasurement:
        """Measure one live generation on ``queries``, by default every one that is usable."""
        asked = queries or self.queries()
        return gates.measure(self._searcher, generation, asked, k, self._progress, exact=exact, pipeline=self._pipeline)

    def next_labels(self, new: Generation, old: Generation, gate: Gate, count: int) -> draws.NextLabels:
        """Draw up to ``count`` queries to judge from those that differ, and keep the draw in the history.

        Raises ``ConfigError`` where the project names no queries without labels, ``LabelError`` as ``queries``.
        """
        queries, before = self._set_apart(new, old, gate)
        if not queries.others:
            why = "the labels judge passages" if queries.labels.spans else "the project names none that are not judged"
            raise ConfigError(
                f"queries were to be drawn from those without labels, and {why}. Nothing was drawn; set queries in "
                "revector.toml to a .jsonl or .tsv file of queries as users ask them."
            )
        first, second = (self.measure(one, gate.k, queries=queries).others for one in (old, new))
        chosen = draws.choose(queries, first, second, before, count, ordered=gate.by_order)
        if chosen.drawn:
            facts = {"old": old.revision, "new": new.revision, "k": gate.k, "ordered": gate.by_order}
            facts |= {"differing": chosen.differing, "of": chosen.of, "pipeline": self.through}
            asked = [query for query in chosen.drawn if query in chosen.queries]
            with self._engine.begin() as connection:
                detail = {**facts, "asked": asked, "drawn": list(chosen.drawn)}
                add_event(connection, self._cid, self._actor, draws.KIND, new.gen, detail)
        return chosen

    def proxy_candidates(self, new: Generation, old: Generation, gate: Gate) -> tuple[Candidates, dict[str, str]]:
        """Return what a judge is asked about: documents of each query that differs, and the texts of the queries.

        Raises ``LabelError`` as ``queries``, and where passages are judged.
        """
        queries, _ = self._set_apart(new, old, gate)
        first, second = (self.measure(one, gate.k, queries=queries).rankings for one in (old, new))
        return candidates(queries, first, second, ordered=gate.by_order), {**queries.texts, **queries.others}

    def labelled_queries(self) -> dict[str, str] | None:
        """Id and text of the labelled queries with a document that exists; None where no labels are configured."""
        return None if self._labels is None else self.queries().texts

    def queries_beside(self) -> int:
        """How many queries without labels are asked of old and new beside the labelled ones."""
        return 0 if self._labels is None else len(unjudged_texts(load_labels(self._labels), self._others))

    def queries(self) -> QuerySet:
        """Return the labelled queries that can be measured. Raises ``LabelError`` when there are none."""
        if self._labels is None:
            raise LabelError(
                "the collection has no labelled queries, so recall cannot be measured. The alias was not moved; set "
                "qrels in revector.toml to a folder in BEIR layout or of TREC files, a .csv file, or sql:SELECT ..."
            )
        return usable_queries(load_labels(self._labels), self._documents)

    def _unlabelled(self, gate: Gate, collection: Collection) -> bool:
        """Whether there is nothing to measure, and that is no fault."""
        return self._labels is None and (collection.active_gen is None or gate.proxy is not None)

    def _compare_rows(self, generation: Generation) -> gates.GateVerdict:
        self._searcher.encoders.probe(generation)  # an encoder that fails now says nothing about the index
        with self._engine.connect() as connection:
            broken = broken_invariants(connection, self._cid, [generation.gen], first=3)
        found = IndexComparison(
            self._engine, generation, self._searcher.encoders, role="building", progress=self._progress
        ).run(reembed=STEP_REEMBEDDED)
        reasons = [f"{one.count:,} {INVARIANTS[view]} ({', '.join(one.first)})" for view, one in broken.items()]
        reasons += found.reasons
        if not generation.seeded:
            reasons.append("the backfill did not reach every document")
        detail = {**found.counts, "documents": found.checked - found.deleted}
        return gates.GateVerdict(Value.FAIL if reasons else Value.PASS, tuple(reasons), detail)

    def _compare(self, target: Revision, generation: Generation, active_gen: int | None) -> gates.GateVerdict:
        gate, active = target.gate, None if active_gen is None else self._searcher.resolve(active_gen)
        queries, _ = self._set_apart(generation, active, gate)
        new = self.measure(generation, gate.k, queries=queries)
        old = None if active is None else self.measure(active, gate.k, queries=queries)
        proxies = None if old is None else self._proxies(gate, queries, new, old)
        with self._engine.connect() as connection:
            look = next_look(
                connection,
                self._cid,
                target.revision,
                None if active is None else active.revision,
                gate,
                queries,
                self.through,
                None if proxies is None else proxies.figures.fingerprint,
            )
        scene = GateScene(
            self._engine, self._searcher, generation, active, queries, gate, self._progress, self._pipeline
        )
        return gates.judge(
            gate,
            queries,
            new,
            old,
            documents=self._documents.count(),
            look=look,
            evidence=gates.measure_demands(scene),
            pipeline=self.through,
            proxies=proxies,
        )

    def _proxies(
        self, gate: Gate, queries: QuerySet, new: gates.GateMeasurement, old: gates.GateMeasurement
    ) -> ProxyScores | None:
        if gate.proxy is None:
            return None
        found = candidates(queries, old.rankings, new.rankings, ordered=gate.by_order)
        with self._engine.connect() as connection:
            return read_proxies(connection, self._cid, judge_of(self._judges, gate.proxy), queries, found)

    @property
    def through(self) -> str | None:
        """The pipeline that is measured, None for plain searches. Raises ``PipelineError`` where it does not import."""
        return None if self._pipeline is None else self._pipeline.identity

    def _set_apart(self, new: Generation, old: Generation | None, gate: Gate) -> tuple[QuerySet, draws.Draws]:
        """Return the queries that a verdict rests on, and what was drawn so far."""
        queries, drawn = self.queries(), draws.Draws()
        if old is not None:
            with self._engine.connect() as connection:
                drawn = draws.read_draws(connection, self._cid, old.revision, new.revision, gate, self.through)
        beside = asked_beside(queries, self._others, self._documents, drawn.asked)
        return draws.set_apart(beside, drawn), drawn

    def _see(self, generation: Generation, token: int) -> verdicts.ChangesSeen:
        documents = self._documents.count()
        with control(self._engine, self._cid, actor=self._actor, token=token) as held:
            # An abort from now on takes the token, and no verdict is kept; an earlier one took the index.
            if generation.gen not in held.collection.live:
                raise GenerationGone(
                    f"revision {generation.revision} was aborted meanwhile; its generation {generation.gen} was not "
                    "measured. Nothing was changed; start again with `revector upgrade`."
                )
            return verdicts.ChangesSeen(work.newest_version(held.connection), documents)

    def _keep(
        self, generation: Generation, step: str, verdict: gates.GateVerdict, seen: verdicts.ChangesSeen, token: int
    ) -> None:
        """Save a verdict and, when it passed, move the phase with it, in one transaction."""
        crash_at("evidence.after_measure")
        brief = {key: value for key, value in verdict.detail.items() if key not in ("gate", *FIGURES)}
        detail = {**verdict.detail, "reasons": verdict.reasons}
        with control(self._engine, self._cid, actor=self._actor, token=token) as held:
            verdicts.save_result(held, generation, KINDS[step], verdict=verdict.value, detail=detail, seen=seen)
            if (mapped := verdict.detail.get(min_agreement.EVIDENCE)) is not None:
                cutoffs.keep_mapped(held, generation.gen, min_agreement.as_mapped(mapped, generation.spec.index.metric))
            now = read_generation(held.connection, generation.gen)
            if verdict.passed and now.phase in STEPS[step].needs:
                moves.advance(held, generation.gen, step, **brief)
            else:
                how = "again" if verdict.passed else "failed"
                held.record(f"{step}_{how}", generation.gen, **brief, reasons=list(verdict.reasons))
