"""A LangChain application that keeps its table and its writes, and searches through revector once the table is adopted.

  pip install 'revector[langchain,embed]' langchain-postgres
  export DATABASE_URL=postgresql+psycopg://…  MODEL=sentence-transformers/all-MiniLM-L6-v2

  python langchain_app.py add faq.txt                       # a document a line
  python langchain_app.py ask "How do I reset a password?"  # by its own column and model
  revector adopt langchain_pg_embedding -c faq --like langchain --model $MODEL
  revector worker &                                         # embeds what is added from now on
  SEARCH=revector python langchain_app.py ask "How do I reset a password?"

Migrations and rollbacks then need nothing of it: revector embeds the question by the model of the index that answers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_postgres import PGVector

COLLECTION = "faq"


class OwnModel(Embeddings):
    """The model that the application has always embedded with."""

    def __init__(self) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(os.environ["MODEL"])

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return [vector.tolist() for vector in self._model.encode(texts, normalize_embeddings=True)]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        return self.embed_documents([text])[0]


def own_table() -> PGVector:
    """Return the application's own store, which goes on taking its writes."""
    return PGVector(OwnModel(), connection=os.environ["DATABASE_URL"], collection_name=COLLECTION)


def retriever() -> BaseRetriever:
    """Return what answers questions: all of the application that changes."""
    if os.environ.get("SEARCH") == "revector":
        from revector.adapters.langchain import RevectorStore

        return RevectorStore(COLLECTION).as_retriever(search_kwargs={"k": 3})
    return own_table().as_retriever(search_kwargs={"k": 3})


def main(command: str, argument: str) -> None:
    """Add the lines of a file, or print the best answers to a question."""
    if command == "add":
        lines = [line for line in Path(argument).read_text(encoding="utf-8").splitlines() if line.strip()]
        own_table().add_texts(lines, ids=[f"{Path(argument).stem}-{n}" for n in range(len(lines))])
    else:
        for document in retriever().invoke(argument):
            print(document.page_content)


if __name__ == "__main__":
    main(*sys.argv[1:])
