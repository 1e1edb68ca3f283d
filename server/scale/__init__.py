"""Data sets in shards, on as many processes or machines as there are, with one result whoever computes it.

`plan_shards` cuts a data set, `run_shard` answers for one shard, `Folder.commit` keeps it at once or not at all; a
batch that is started again does what is not committed. Executors differ in where shards run: processes here (`local`),
servers (`served`), or the actors of a Ray cluster (`on_ray`).
"""

from onnx_attribution.server.scale.batch import Executor, run_batch
from onnx_attribution.server.scale.folder import Folder
from onnx_attribution.server.scale.job import Job, digest_of, run_shard, try_question
from onnx_attribution.server.scale.shards import Sample, Shard, Source, Unread, plan_shards

__all__ = [
    "Executor",
    "Folder",
    "Job",
    "Sample",
    "Shard",
    "Source",
    "Unread",
    "digest_of",
    "plan_shards",
    "run_batch",
    "run_shard",
    "try_question",
]
