"""The checker of histories names exactly the promise that a hand-broken history breaks, and is silent on sound ones."""

from __future__ import annotations

from stories import Story, broken, hit

# Lost, stale, half ----------------------------------------------------------------------------------------------------


@broken("lost")
def an_acknowledged_put_is_nowhere(story: Story) -> None:
    story.put("c1", 1)
    story.heal()


@broken("lost")
def an_index_lacks_an_acknowledged_put(story: Story) -> None:
    story.put("c1", 1)
    story.heal(hit("c1", 1), g1=(hit("c1", 1),), g2=())


@broken("lost")
def an_older_version_replaced_a_newer_one(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.heal(hit("c1", 1))


@broken("lost")
def a_put_is_lost_though_another_document_is_open(story: Story) -> None:
    story.invoke("delete", "w", doc_id="other")
    story.put("c1", 1)
    story.heal()


@broken("lost")
def a_put_is_gone_and_the_delete_without_an_answer_was_by_a_process_dead_before_it(story: Story) -> None:
    call = story.invoke("delete", "dead", doc_id="d")
    story.info(call, "delete", "dead", detail={"dead": True})
    story.put("c1", 1)
    story.heal()


@broken("stale")
def an_index_shows_the_content_before_the_last(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.heal(hit("c2", 2), g1=(hit("c1", 1),))


@broken("stale")
def an_index_alone_is_behind_what_was_acknowledged(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.ok(story.invoke("index", "h"), "index", "h", gen=1, hits=(hit("c1", 1),))


@broken("half")
def an_unanswered_put_is_in_the_table_and_not_in_the_index(story: Story) -> None:
    story.put("c1", 1)
    story.info(story.invoke("put", "w", doc_id="d", content="c2"), "put", "w")
    story.heal(hit("c2", 2), g1=(hit("c1", 1),))


@broken("half")
def an_unanswered_put_is_in_the_index_only(story: Story) -> None:
    story.put("c1", 1)
    story.invoke("put", "w", doc_id="d", content="c2")
    story.heal(hit("c1", 1), g1=(hit("c2", 2),))


@broken("half")
def an_unanswered_first_put_is_in_one_of_two_indexes(story: Story) -> None:
    story.invoke("put", "w", doc_id="d", content="c1")
    story.heal(hit("c1", 1), g1=(hit("c1", 1),), g2=())


@broken("half")
def puts_made_together_are_there_in_part(story: Story) -> None:
    story.put("c0", 1, doc_id="e")
    for doc_id in "de":
        story.invoke("put", "w", doc_id=doc_id, content=f"new {doc_id}", detail={"batch": "1"})
    table = (hit("new d", 2), hit("c0", 1, doc_id="e"))
    story.heal(*table)


@broken("half")
def puts_made_together_are_there_in_part_beside_a_document_that_never_was(story: Story) -> None:
    for doc_id in "de":
        story.invoke("put", "w", doc_id=doc_id, content=f"new {doc_id}", detail={"batch": "1"})
    story.heal(hit("new d", 2))


# Resurrected ----------------------------------------------------------------------------------------------------------


@broken("resurrected")
def a_query_serves_what_was_deleted(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.query(hit("c1", 1))


@broken("resurrected")
def text_from_before_a_delete_is_served_after_the_document_was_created_anew(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.put("c2", 3)
    story.query(hit("c1", 1))


@broken("resurrected")
def a_late_put_is_shown_with_the_version_of_the_delete(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.query(hit("c1", 2))


@broken("resurrected")
def an_old_content_is_served_under_a_new_version(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.query(hit("c1", 3))


@broken("resurrected")
def a_deleted_document_is_in_the_table_after_heal(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.heal(hit("c1", 1))


@broken("resurrected")
def a_deleted_document_is_in_an_index_after_heal(story: Story) -> None:
    story.put("c1", 1)
    story.delete(2)
    story.heal(g1=(hit("c1", 1),))


# What sessions see ----------------------------------------------------------------------------------------------------


@broken("went back")
def a_session_sees_an_older_version_after_a_newer_one(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.query(hit("c2", 2))
    story.query(hit("c1", 1))


@broken("went back")
def a_rollback_takes_a_session_back_in_time(story: Story) -> None:
    story.put("c1", 1)
    story.move("swap", 2, 5, old=1)
    story.put("c2", 2)
    story.query(hit("c2", 2), gen=2)
    story.move("rollback", 1, 6, old=2, forced=True)
    story.query(hit("c1", 1), gen=1)


@broken("wrong model")
def a_query_meets_an_index_of_another_model(story: Story) -> None:
    story.query(encoder="e1", index_encoder="e2")


@broken("mixed chunks")
def an_answer_has_chunks_of_two_contents(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.query(hit("c1", 1), hit("c2", 2, 1))


@broken("mixed chunks")
def an_answer_has_a_chunk_that_its_content_lacks(story: Story) -> None:
    story.put("c1", 1)
    story.query(hit("c1", 1, chunk=2, chunks=2))


@broken("mixed chunks")
def an_index_lacks_a_chunk_after_heal(story: Story) -> None:
    story.put("c1", 1)
    story.heal(hit("c1", 1), g1=(hit("c1", 1, 0, 2),))


@broken("mixed chunks")
def an_index_keeps_a_chunk_of_the_longer_version_before(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.heal(hit("c2", 2), g1=(hit("c2", 2, 0, 1), hit("c1", 1, 1, 2)))


@broken("mixed chunks")
def an_index_has_one_chunk_twice(story: Story) -> None:
    story.put("c1", 1)
    story.heal(hit("c1", 1), g1=(hit("c1", 1), hit("c1", 1)))


@broken("phantom")
def a_content_that_nobody_put(story: Story) -> None:
    story.put("c1", 1)
    story.query(hit("c9", 2))


@broken("phantom")
def a_content_is_shown_before_its_put_begins(story: Story) -> None:
    story.query(hit("c1", 1))
    story.put("c1", 1)


@broken("phantom")
def a_content_of_another_document(story: Story) -> None:
    story.put("c1", 1, doc_id="other")
    story.put("c2", 2)
    story.query(hit("c1", 1))


@broken("phantom")
def a_version_with_the_content_of_another(story: Story) -> None:
    story.put("c1", 1)
    story.put("c2", 2)
    story.query(hit("c1", 2))


@broken("phantom")
def a_put_that_failed_is_shown(story: Story) -> None:
    story.fail(story.invoke("put", "w", doc_id="d", content="c1"), "put", "w")
    story.query(hit("c1", 1))


@broken("phantom")
def a_put_is_shown_with_a_version_it_was_not_told(story: Story) -> None:
    story.put("c1", 1)
    story.query(hit("c1", 3))
