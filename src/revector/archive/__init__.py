"""The embedding archive: sealed HDF5 parts, archives of many shards, and vectors in the files of other tools.

archive = Archive.create(Path("vectors"), attributes={"encoder_fp": encoder.fingerprint}, dtype="float16")
archive.append(part)                              # a shard: whole or not there, whatever kills the process
archive.append(titles, group="title")             # other vectors of the same documents
found = archive.read_many(["d7", "d3"])           # in that order; found.embeddings[found.starts[0] : …]
for part in archive.batches(4096): ...
archive.merge(Path("all.h5"))                     # one HDF5 file of everything, for other tools
save_vectors("v.npz", ids, vectors)               # and load_, list_, get_ …: plain ids and vectors in any format
"""

from __future__ import annotations

from revector.archive.folder import Archive, ArchivedVectors, SealedFile
from revector.archive.foreign import Columns, open_columns, vectors_sha256
from revector.archive.importing import PROBLEMS, Importer, ImportReport, Target
from revector.archive.merge import open_merged
from revector.archive.part import Part, Size, read_attributes, read_part, write_part, writing_part
from revector.archive.plain import (
    PlainVectors,
    convert_vectors,
    get_vector,
    get_vectors,
    list_ids,
    load_vectors,
    save_vectors,
    vector_batches,
)
from revector.archive.plain_writing import ConvertReport
from revector.archive.shard import OpenPart
from revector.archive.storage import LAYOUTS, Dtype, Layout, remove_temporary
from revector.archive.tables import FORMATS, ExportReport, check_format, write_vectors

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "PROBLEMS",
    "Archive",
    "ArchivedVectors",
    "Columns",
    "ConvertReport",
    "Dtype",
    "ExportReport",
    "ImportReport",
    "Importer",
    "Layout",
    "OpenPart",
    "Part",
    "PlainVectors",
    "SealedFile",
    "Size",
    "Target",
    "check_format",
    "convert_vectors",
    "get_vector",
    "get_vectors",
    "list_ids",
    "load_vectors",
    "open_columns",
    "open_merged",
    "read_attributes",
    "read_part",
    "remove_temporary",
    "save_vectors",
    "vector_batches",
    "vectors_sha256",
    "write_part",
    "write_vectors",
    "writing_part",
]
