"""A LlamaIndex application that keeps its table and its writes, and searches through revector once it is adopted.

  pip install 'revector[llama-index,embed]' llama-index-vector-stores-postgres
  export DATABASE_URL=postgresql://…  MODEL=sentence-transformers/all-MiniLM-L6-v2

  python llama_index_app.py add faq.txt                       # a document a line
  python llama_index_app.py ask "How do I reset a password?"  # by its own column and model
  revector adopt data_faq -c faq --like llamaindex --model $MODEL
  revector worker &                                           # embeds what is added from now on
  SEARCH=revector python llama_index_app.py ask "How do I reset a password?"

Migrations and rollbacks then need nothing of it: revector embeds the question by the model of the index that answers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.vector_stores.postgres import PGVectorStore
from sqlalchemy import make_url

COLLECTION = "faq"


class OwnModel(BaseEmbedding):
    """The model that the application has always embedded with."""

    def __init__(self) -> None:
        from sentence_transformers import SentenceTransformer

        super().__init__(model_name=os.environ["MODEL"])
        self._model: Any = SentenceTransformer(os.environ["MODEL"])

    @property
    def dim(self) -> int:
        """How many numbers a vector has."""
        return int(self._model.encode("").shape[0])

    def _get_text_embedding(self, text: str) -> list[float]:
        return list(map(float, self._model.encode(text, normalize_embeddings=True)))

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def own_table() -> VectorStoreIndex:
    """Return the application's own index, which goes on taking its writes."""
    url, model = make_url(os.environ["DATABASE_URL"]), OwnModel()
    addresses = [url.set(drivername=f"postgresql+{driver}") for driver in ("psycopg", "asyncpg")]
    plain, asynchronous = (one.render_as_string(hide_password=False) for one in addresses)
    store = PGVectorStore(plain, asynchronous, table_name=COLLECTION, schema_name="public", embed_dim=model.dim)
    return VectorStoreIndex.from_vector_store(store, embed_model=model)


def index() -> VectorStoreIndex:
    """Return what answers questions: all of the application that changes."""
    if os.environ.get("SEARCH") == "revector":
        from revector.adapters.llama_index import NoEmbedding, RevectorVectorStore

        return VectorStoreIndex.from_vector_store(RevectorVectorStore(COLLECTION), embed_model=NoEmbedding())
    return own_table()


def main(command: str, argument: str) -> None:
    """Add the lines of a file, or print the best answers to a question."""
    if command == "add":
        lines = [line for line in Path(argument).read_text(encoding="utf-8").splitlines() if line.strip()]
        own_table().insert_nodes([TextNode(text=line) for line in lines])
    else:
        for found in index().as_retriever(similarity_top_k=3).retrieve(argument):
            print(found.node.get_content())


if __name__ == "__main__":
    main(*sys.argv[1:])
